#include "daemon/why_text.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "daemon/log.h"

namespace keepstep::daemon {
namespace {

constexpr double kTightShare = 0.05;

int64_t NewestSaveBytes(const JobFacts& facts) {
  for (auto save = facts.view.saves.rbegin(); save != facts.view.saves.rend(); ++save) {
    if (save->progress.bytes_total > 0) return save->progress.bytes_total;
  }
  for (auto outcome = facts.view.outcomes.rbegin(); outcome != facts.view.outcomes.rend(); ++outcome) {
    if (outcome->bytes > 0) return outcome->bytes;
  }
  return 0;
}

}  // namespace

std::string Duration(double seconds) {
  const int64_t whole = static_cast<int64_t>(std::max(seconds, 0.0));
  if (whole < 60) return absl::StrCat(whole, "s");
  if (whole < 3600) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  if (whole < 86400) return absl::StrFormat("%dh%02dm", whole / 3600, whole / 60 % 60);
  return absl::StrFormat("%dd%02dh", whole / 86400, whole / 3600 % 24);
}

std::string Ago(const JobFacts& facts, int64_t unix_ms) {
  return absl::StrCat(Duration(static_cast<double>(facts.now_unix_ms - unix_ms) / 1000), " ago");
}

std::string ClockTime(int64_t unix_ms) {
  return absl::FormatTime("%H:%M UTC", absl::FromUnixMillis(unix_ms), absl::UTCTimeZone());
}

std::string Of(int64_t part_bytes, int64_t total_bytes) {
  return absl::StrCat(HumanBytes(part_bytes), " of ", HumanBytes(total_bytes));
}

std::string RankText(const JobFacts& facts, int32_t rank) {
  const auto seen = facts.view.ranks.find(rank);
  if (seen == facts.view.ranks.end() || seen->second.pid == 0) return absl::StrCat("rank ", rank);
  return absl::StrCat("rank ", rank, " (", facts.host, facts.host.empty() ? "" : ", ", "pid ",
                      seen->second.pid, ")");
}

std::string LastGood(const JobFacts& facts) {
  return facts.last_step < 0 ? "nothing is committed yet"
                             : absl::StrCat("last good step is ", facts.last_step);
}

std::string SpaceText(const JobFacts& facts) {
  if (facts.total_bytes <= 0) return "";
  return absl::StrFormat("%s (%d %%) are free in %s", HumanBytes(facts.free_bytes),
                         100 * facts.free_bytes / facts.total_bytes, facts.directory);
}

bool SpaceIsTight(const JobFacts& facts) {
  if (facts.total_bytes <= 0) return false;
  return facts.free_bytes < NewestSaveBytes(facts) ||
         static_cast<double>(facts.free_bytes) < kTightShare * static_cast<double>(facts.total_bytes);
}

}  // namespace keepstep::daemon
