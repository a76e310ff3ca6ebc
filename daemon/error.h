// Errors of the control plane: an absl::Status that also carries what a program matches (reason), where it
// happened (stage) and who is to blame (rank), on its way to a Failure message, an ErrorInfo or a log line.

#ifndef KEEPSTEP_DAEMON_ERROR_H_
#define KEEPSTEP_DAEMON_ERROR_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "daemon/logic/events.h"
#include "proto/types.pb.h"

namespace keepstep::daemon {

absl::Status MakeError(absl::StatusCode code, absl::string_view reason, absl::string_view message,
                       absl::string_view stage = "", int32_t rank = -1);

// The reason that was given; without one, a word at the start of the message that looks like one
// ("REPLICA_MISMATCH: …"), else the code's name.
std::string ReasonOf(const absl::Status& status);
std::string StageOf(const absl::Status& status);  // empty: unknown
int32_t RankOf(const absl::Status& status);       // -1: unknown

// The same error with this reason and stage, unless it is OK or has a reason already.
absl::Status Because(absl::Status status, absl::string_view reason, absl::string_view stage = "");

// OK for a failure whose code is OK.
absl::Status FromFailure(const Failure& failure);
Failure ToFailure(const absl::Status& status);
v1::Failure ToProto(const Failure& failure);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_ERROR_H_
