// The failures that a job's logic reports: one constructor per reason of docs/errors.md that arises here.

#ifndef KEEPSTEP_DAEMON_LOGIC_FAILURES_H_
#define KEEPSTEP_DAEMON_LOGIC_FAILURES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "daemon/logic/events.h"

namespace keepstep::daemon {

Failure MakeFailure(absl::StatusCode code, absl::string_view reason, absl::string_view message,
                    absl::string_view stage = "", int32_t rank = -1);

// An error of a stage: keeps the status code, and the reason that the status carries, else the code's name.
Failure IoFailure(const absl::Status& status, absl::string_view stage, int32_t rank = -1);

Failure StaleEpoch(int64_t current_epoch);
Failure RanksMissing(const std::vector<int32_t>& ranks, absl::string_view stage);
Failure LostByRestart(uint64_t number);
Failure RetentionDiffers(int32_t rank, const RetentionPolicy& asked, const RetentionPolicy& in_force);
Failure Draining();
Failure Recovering();
Failure NotRegistered(int32_t rank);

// "3, 5 and 7"; long lists are cut.
std::string RankList(const std::vector<int32_t>& ranks);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_FAILURES_H_
