// A daemon of this user's own, for machines where nobody runs one as a service: one, however many ask for it.
//
//   1. The sockets' folder is made, and `start.lock` in it taken: who asks at the same time waits here.
//   2. If a daemon answers, it serves, and nothing happens.
//   3. One that is ending holds `lock` until it has gone: that is waited for.
//   4. keepstepd says what its settings are. What the user has set stays; else
//        the log goes to a file of limited size beside the state;
//        a state on a file system that other machines see too, where theirs would meet it, goes to
//        /var/tmp/keepstep-UID;
//        on demand, the daemon ends when nobody has needed it for half an hour.
//   5. keepstepd starts in its own session (launch.h); once it is ready the lock is let go.

#ifndef KEEPSTEP_CLIENT_COMMAND_OWN_DAEMON_H_
#define KEEPSTEP_CLIENT_COMMAND_OWN_DAEMON_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/command/connection.h"
#include "client/command/program.h"

namespace keepstep::client {

struct OwnDaemon {
  v1::StatusResponse status;
  bool started = false;  // by this call
  std::string address;
  std::string log;  // where it was started
};

// Starts it at the address of `globals`, else of the environment, else in OwnFolder(), with `arguments`.
// Blocks for as long as it takes, two minutes at most. NOT_FOUND: no keepstepd; PERMISSION_DENIED: a folder
// is not this user's alone; otherwise the end of its log is the message.
absl::StatusOr<OwnDaemon> StartOwn(const Globals& globals, std::vector<std::string> arguments,
                                   bool on_demand);

// The daemon at the address, if one answers.
absl::StatusOr<v1::StatusResponse> Ask(Globals globals);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_OWN_DAEMON_H_
