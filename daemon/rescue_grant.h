// Whether a session's memory is kept when its process dies: decided for each registration, before it is answered.

#ifndef KEEPSTEP_DAEMON_RESCUE_GRANT_H_
#define KEEPSTEP_DAEMON_RESCUE_GRANT_H_

#include "daemon/client_session.h"
#include "daemon/device/device_hub.h"
#include "daemon/rescue_limits.h"

namespace keepstep::daemon {

// Granted if the daemon keeps memory, this much of it, and each GPU and path of the registration has passed its probe,
// which is made here when it is the first: blocks for as long as a CUDA context takes. `hub` null: no GPU memory is mapped.
ClientSession::RescueGrant GrantRescue(ClientSession& session, const Registration& registration,
                                       const RescueLimits& limits, DeviceHub* hub);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_RESCUE_GRANT_H_
