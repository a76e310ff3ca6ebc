#include "daemon/config_values.h"

#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

namespace keepstep::daemon {
namespace {

struct Unit {
  absl::string_view name;
  int64_t factor;
};

// Smallest first; Show takes the largest that divides the value, so what only Parse knows comes separately.
constexpr Unit kBinary[] = {{"B", 1},
                            {"KiB", int64_t{1} << 10},
                            {"MiB", int64_t{1} << 20},
                            {"GiB", int64_t{1} << 30},
                            {"TiB", int64_t{1} << 40}};
constexpr Unit kDecimal[] = {
    {"", 1}, {"kB", 1'000}, {"MB", 1'000'000}, {"GB", 1'000'000'000}, {"TB", 1'000'000'000'000}};
constexpr Unit kTime[] = {{"ms", 1}, {"s", 1'000}, {"min", 60'000}, {"h", 3'600'000}, {"d", 86'400'000}};

const Unit* Find(absl::Span<const Unit> units, absl::string_view name) {
  for (const Unit& unit : units) {
    if (unit.name == name) return &unit;
  }
  return nullptr;
}

absl::StatusOr<int64_t> Scale(absl::string_view number, const Unit& unit) {
  int64_t value = 0;
  if (number.empty() || number.front() == '+' || number.front() == '-' || !absl::SimpleAtoi(number, &value) ||
      value > std::numeric_limits<int64_t>::max() / unit.factor) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", number.substr(0, 40), "' is not a whole number from 0 up, or too large"));
  }
  return value * unit.factor;
}

size_t EndOfDigits(absl::string_view text) {
  size_t end = 0;
  while (end < text.size() && text[end] >= '0' && text[end] <= '9') ++end;
  return end;
}

std::string Show(int64_t value, absl::Span<const Unit> units) {
  const Unit* best = &units.front();
  for (const Unit& unit : units) {
    if (value != 0 && value % unit.factor == 0) best = &unit;
  }
  return absl::StrCat(value / best->factor, best->name);
}

}  // namespace

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  const size_t digits = EndOfDigits(text);
  const absl::string_view name = text.substr(digits);
  const Unit* unit = Find(kBinary, name);
  if (unit == nullptr) unit = Find(kDecimal, name);
  if (unit == nullptr || digits == 0) {
    return absl::InvalidArgumentError(absl::StrCat("'", text.substr(0, 40), "' is not a size such as 64GiB"));
  }
  return Scale(text.substr(0, digits), *unit);
}

std::string ShowBytes(int64_t bytes) { return Show(bytes, kBinary); }

absl::StatusOr<int64_t> ParseMillis(absl::string_view text) {
  const size_t digits = EndOfDigits(text);
  const Unit* unit = Find(kTime, text.substr(digits));
  if (unit == nullptr || digits == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text.substr(0, 40), "' is not a duration such as 500ms, 30s, 10min or 2h"));
  }
  return Scale(text.substr(0, digits), *unit);
}

std::string ShowMillis(int64_t millis) { return Show(millis, kTime); }

absl::StatusOr<int64_t> ParseCount(absl::string_view text) { return Scale(text, kTime[0]); }

}  // namespace keepstep::daemon
