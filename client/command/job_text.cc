#include "client/command/job_text.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/command/format.h"

namespace keepstep::client {

std::string LastCommitText(const v1::JobStatus& job, int64_t now_unix_ms) {
  if (job.last_step() < 0) return "-";
  return absl::StrCat(job.last_step(), " (", HumanAge(job.last_commit_unix_ms(), now_unix_ms), ")");
}

std::string SaveText(const v1::SaveInFlight& save) {
  if (save.stuck()) return absl::StrCat(save.step(), " STUCK ", HumanSeconds(save.idle_seconds()));
  std::string out = absl::StrCat(save.step(), " ", save.stage());
  // Everything is written once, so what is written is how far it is; the rate is over the save's whole life.
  const int64_t done = save.bytes_written();
  if (save.bytes_total() > 0) absl::StrAppend(&out, " ", 100 * done / save.bytes_total(), " %");
  if (done > 0 && save.seconds() > 0 && done < save.bytes_total()) {
    const double rate = static_cast<double>(done) / save.seconds();
    absl::StrAppend(&out, ", ", HumanBytes(static_cast<int64_t>(rate)), "/s, ",
                    HumanSeconds(static_cast<double>(save.bytes_total() - done) / rate), " left");
  }
  constexpr int kRanksShown = 4;
  if (const int waiting = save.waiting_for_ranks_size(); waiting > 0) {
    const auto begin = save.waiting_for_ranks().begin();
    absl::StrAppend(&out, ", waits for rank ",
                    absl::StrJoin(begin, begin + std::min(waiting, kRanksShown), ", "),
                    waiting > kRanksShown ? absl::StrCat(" and ", waiting - kRanksShown, " more") : "");
  }
  return out;
}

std::string InFlightText(const v1::JobStatus& job) {
  std::string out;
  for (const v1::SaveInFlight& save : job.in_flight()) {
    absl::StrAppend(&out, out.empty() ? "" : "; ", SaveText(save));
  }
  return out.empty() ? "-" : out;
}

}  // namespace keepstep::client
