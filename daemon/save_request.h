// A request for a save, checked and turned into what an attempt is told: of a call, a frame, or a flight record.

#ifndef KEEPSTEP_DAEMON_SAVE_REQUEST_H_
#define KEEPSTEP_DAEMON_SAVE_REQUEST_H_

#include <memory>

#include "absl/status/status.h"
#include "daemon/attempt_io.h"
#include "daemon/client_session.h"
#include "proto/sessions.pb.h"

namespace keepstep::daemon {

// INVALID_ARGUMENT, RESOURCE_EXHAUSTED, with a reason of docs/errors.md.
absl::Status CheckSave(const v1::SaveRequest& request);

// REQUIRES: CheckSave says OK.
SaveArgs ArgsFrom(const v1::SaveRequest& request, const Membership& member,
                  std::shared_ptr<const Registration> registration);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_SAVE_REQUEST_H_
