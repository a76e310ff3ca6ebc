// What a rank of a warm world is given besides the GPU memory that it has: tensors in host memory, and extras.

#ifndef KEEPSTEP_DAEMON_WARM_RESTART_H_
#define KEEPSTEP_DAEMON_WARM_RESTART_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/client_session.h"
#include "daemon/kept_worlds.h"
#include "proto/sessions.pb.h"

namespace keepstep::daemon {

// Writes every tensor that `is` has in host memory, as the record of the process before has it, and returns the bytes.
// REQUIRES: WhyNotInPlace finds nothing. Errors of the port; OUT_OF_RANGE: a record that lacks some.
absl::StatusOr<int64_t> FillHostMemory(const WarmRank& was, const Registration& is, MemoryPort& to, Cancellation& cancel);

// The extras of every rank that were noted with the step. `member`: any rank's. Errors of CheckSave.
absl::StatusOr<std::shared_ptr<const WarmExtras>> ExtrasOf(const WarmWorld& world, const Membership& member);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_WARM_RESTART_H_
