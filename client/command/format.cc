#include "client/command/format.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace keepstep::client {
namespace {

double NowSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

std::string HumanBytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (std::abs(value) >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? absl::StrCat(bytes, " B") : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string HumanSeconds(double seconds) {
  if (seconds < 10) return absl::StrFormat("%.1fs", seconds);
  const int64_t whole = static_cast<int64_t>(seconds);
  if (whole < 60) return absl::StrCat(whole, "s");
  if (whole < 3600) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  if (whole < 86400) return absl::StrFormat("%dh%02dm", whole / 3600, whole / 60 % 60);
  return absl::StrFormat("%dd%02dh", whole / 86400, whole / 3600 % 24);
}

std::string HumanAge(int64_t then_unix_ms, int64_t now_unix_ms) {
  if (then_unix_ms == 0) return "never";
  return absl::StrCat(HumanSeconds(std::max<int64_t>(0, now_unix_ms - then_unix_ms) / 1000), " ago");
}

int64_t ParseBytes(absl::string_view text) {
  const size_t end = text.find_first_not_of("0123456789.");
  double value = 0;
  if (!absl::SimpleAtod(text.substr(0, end), &value) || value < 0) return -1;
  const std::string unit = absl::AsciiStrToUpper(
      absl::StripAsciiWhitespace(end == absl::string_view::npos ? absl::string_view() : text.substr(end)));
  static constexpr struct {
    const char* name;
    double factor;
  } kUnits[] = {
      {"", 1},      {"B", 1},      {"KB", 1e3},        {"MB", 1e6},           {"GB", 1e9},
      {"TB", 1e12}, {"KIB", 1024}, {"MIB", 1048576.0}, {"GIB", 1073741824.0}, {"TIB", 1099511627776.0}};
  for (const auto& known : kUnits) {
    if (unit != known.name) continue;
    const double bytes = value * known.factor;
    return bytes < static_cast<double>(std::numeric_limits<int64_t>::max()) ? static_cast<int64_t>(bytes)
                                                                            : -1;
  }
  return -1;
}

Table::Table(std::vector<std::string> header, std::vector<size_t> right) : right_(std::move(right)) {
  rows_.push_back(std::move(header));
}

void Table::Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

std::string Table::Render() const {
  std::vector<size_t> widths(rows_[0].size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string pad(widths[i] - row[i].size(), ' ');
      const bool right = std::find(right_.begin(), right_.end(), i) != right_.end();
      absl::StrAppend(&line, i == 0 ? "" : "  ", right ? pad : "", row[i], right ? "" : pad);
    }
    absl::StrAppend(&out, absl::StripTrailingAsciiWhitespace(line), "\n");
  }
  return out;
}

Progress::Progress(std::string what)
    : what_(std::move(what)), shown_(isatty(STDERR_FILENO) != 0), start_seconds_(NowSeconds()) {}

Progress::~Progress() {
  if (shown_ && last_seconds_ != 0) fprintf(stderr, "\r\033[K");
}

void Progress::Update(int64_t bytes_done, int64_t bytes_total) {
  const double now = NowSeconds();
  if (!shown_ || now - last_seconds_ < 0.1) return;
  last_seconds_ = now;
  const double rate = bytes_done / std::max(now - start_seconds_, 1e-6);
  const double percent = bytes_total > 0 ? 100.0 * bytes_done / bytes_total : 0;
  const double left = rate > 0 ? (bytes_total - bytes_done) / rate : 0;
  fprintf(stderr, "\r\033[K%s  %3.0f %%  %s of %s  %s/s  %s left", what_.c_str(), percent,
          HumanBytes(bytes_done).c_str(), HumanBytes(bytes_total).c_str(),
          HumanBytes(static_cast<int64_t>(rate)).c_str(), HumanSeconds(left).c_str());
}

}  // namespace keepstep::client
