// Starts a program of this daemon's own as a child with one end of a socket.

#ifndef KEEPSTEP_DAEMON_DEVICE_CHILD_PROCESS_H_
#define KEEPSTEP_DAEMON_DEVICE_CHILD_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace keepstep::daemon {

// `command` is a program's path and its arguments; `socket` becomes descriptor `as` there. No signal is blocked in the
// child. The caller reaps it. RESOURCE_EXHAUSTED: it does not start.
absl::StatusOr<pid_t> SpawnChild(const std::vector<std::string>& command, int socket, int as);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_CHILD_PROCESS_H_
