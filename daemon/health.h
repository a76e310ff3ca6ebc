// Is the daemon alive, and is it ready? Looks at pulses and flags alone, so that it answers when everything
// is stuck.

#ifndef KEEPSTEP_DAEMON_HEALTH_H_
#define KEEPSTEP_DAEMON_HEALTH_H_

#include <chrono>

#include "absl/status/status.h"
#include "daemon/server_state.h"

namespace keepstep::daemon {

// As long as a client's watchdog waits for a heartbeat before it opens its gate.
inline constexpr std::chrono::seconds kStuckAfter{10};

// The ticker beats, and every job's strand has run a tick, within kStuckAfter. UNAVAILABLE says which does
// not.
absl::Status CheckAlive(const ServerState& state);

// Alive, not draining, and every job has settled what an earlier daemon left. UNAVAILABLE says what is
// missing.
absl::Status CheckReady(const ServerState& state);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_HEALTH_H_
