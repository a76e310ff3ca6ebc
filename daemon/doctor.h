// Checks what this machine allows and says how to mend it. Blocks for a moment; changes nothing but a scratch
// file.

#ifndef KEEPSTEP_DAEMON_DOCTOR_H_
#define KEEPSTEP_DAEMON_DOCTOR_H_

#include "daemon/server_state.h"
#include "proto/node.pb.h"

namespace keepstep::daemon {

v1::DoctorResponse Examine(const ServerState& state);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DOCTOR_H_
