// Parsers reformat what they read and compare: whatever is not spelled as the formatter spells it is no name.

#include "storage/attempt.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "reshard/check.h"

namespace keepstep::storage {
namespace {

// Digits alone, at most 19; SimpleAtoi would take signs and spaces.
std::optional<int64_t> ParseDigits(absl::string_view text) {
  if (text.empty() || text.size() > 19) return std::nullopt;
  for (char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
  }
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value)) return std::nullopt;
  return value;
}

std::string InEpoch(int64_t epoch, absl::string_view leaf) {
  return absl::StrCat(EpochDir(epoch), "/", leaf);
}

std::string InAttempt(int64_t step, absl::string_view attempt, absl::string_view leaf) {
  return absl::StrCat(AttemptDir(step, attempt), "/", leaf);
}

}  // namespace

std::string AttemptName(const AttemptId& attempt) {
  return absl::StrCat("e", attempt.epoch, "-a", attempt.counter, "-",
                      absl::Hex(attempt.random, absl::kZeroPad16));
}

std::optional<AttemptId> ParseAttempt(absl::string_view name) {
  const absl::string_view whole = name;
  if (!absl::ConsumePrefix(&name, "e") || name.size() < 20) return std::nullopt;
  const absl::string_view random = name.substr(name.size() - 16);
  const absl::string_view numbers = name.substr(0, name.size() - 16);  // "<epoch>-a<counter>-"
  const size_t middle = numbers.find("-a");
  if (middle == absl::string_view::npos || numbers.back() != '-' || middle + 3 > numbers.size())
    return std::nullopt;
  const std::optional<int64_t> epoch = ParseDigits(numbers.substr(0, middle));
  const std::optional<int64_t> counter = ParseDigits(numbers.substr(middle + 2, numbers.size() - middle - 3));
  AttemptId id;
  if (!epoch || !counter || !absl::SimpleHexAtoi(random, &id.random)) return std::nullopt;
  id.epoch = *epoch;
  id.counter = *counter;
  if (AttemptName(id) != whole) return std::nullopt;
  return id;
}

std::string StepName(int64_t step) {
  KEEPSTEP_CHECK(step >= 0 && step <= kMaxStep, "a step has at most 12 digits");
  return absl::StrCat(absl::Dec(step, absl::kZeroPad12));
}

std::optional<int64_t> ParseStep(absl::string_view name) {
  if (name.size() != 12) return std::nullopt;
  return ParseDigits(name);
}

std::optional<int64_t> ParseEpoch(absl::string_view name) {
  const std::optional<int64_t> epoch = ParseDigits(name);
  if (!epoch || absl::StrCat(*epoch) != name) return std::nullopt;
  return epoch;
}

std::string AttemptDir(int64_t step, absl::string_view attempt) {
  return absl::StrCat(StepName(step), "/", attempt);
}
std::string DecisionPath(int64_t step, absl::string_view attempt) {
  return InAttempt(step, attempt, kDecisionName);
}
std::string DeletingPath(int64_t step, absl::string_view attempt) {
  return InAttempt(step, attempt, kDeletingName);
}
std::string PinsPath(int64_t step) { return absl::StrCat(StepName(step), "/", kPinsDir); }
std::string EpochDir(int64_t epoch) { return absl::StrCat(kEpochsDir, "/", epoch); }
std::string ClaimPath(int64_t epoch) { return InEpoch(epoch, "CLAIM"); }
std::string LatestPath(int64_t epoch) { return InEpoch(epoch, "LATEST"); }
std::string ParentPath(int64_t epoch) { return InEpoch(epoch, "PARENT"); }

std::string BlobName(reshard::Component component, int32_t rank, int32_t world_size, int32_t rewrite) {
  const std::string again = rewrite > 0 ? absl::StrCat("-r", rewrite) : std::string();
  return absl::StrFormat("%s-%05d-of-%05d%s.safetensors", reshard::ComponentName(component), rank, world_size,
                         again);
}

std::string PartName(uint32_t index) { return absl::StrCat("part-", index, ".pb"); }

std::optional<uint32_t> ParsePartName(absl::string_view name) {
  const absl::string_view whole = name;
  if (!absl::ConsumePrefix(&name, "part-") || !absl::ConsumeSuffix(&name, ".pb")) return std::nullopt;
  const std::optional<int64_t> index = ParseDigits(name);
  if (!index || *index >= kMaxParts || PartName(static_cast<uint32_t>(*index)) != whole) return std::nullopt;
  return static_cast<uint32_t>(*index);
}

}  // namespace keepstep::storage
