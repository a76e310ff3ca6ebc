// A keepstepd for one look: it serves what lies beneath some roots and changes nothing there.
//
//   1. Sockets, catalog and journal are in a fresh temporary directory that nobody else can enter; it goes at
//   the end.
//   2. Jobs get stores that refuse to write (storage/read_only_store.h): no claim, no settling, no probe.
//   3. Calls that would change something are refused: FAILED_PRECONDITION, READ_ONLY.
//   4. It ends on SIGTERM, or after kIdle without a client. Who starts it also makes it end with himself
//      (client/command/launch.h).
// Configuration and environment have no say. It runs as the caller and sees what the caller can read.

#ifndef KEEPSTEP_DAEMON_READ_ONLY_H_
#define KEEPSTEP_DAEMON_READ_ONLY_H_

#include <chrono>
#include <string>
#include <vector>

namespace keepstep::daemon {

inline constexpr std::chrono::seconds kIdle(60);

// Prints one ready line on stdout; returns the process's exit status. REQUIRES: no other thread has started.
int ServeReadOnly(const std::vector<std::string>& roots);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_READ_ONLY_H_
