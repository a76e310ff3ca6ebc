// Starts keepstepd: as a service of its own session that outlives the command, or as a child that does not.

#ifndef KEEPSTEP_CLIENT_COMMAND_LAUNCH_H_
#define KEEPSTEP_CLIENT_COMMAND_LAUNCH_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace keepstep::client {

// $KEEPSTEPD, else beside this command, else on $PATH. NOT_FOUND says where it looked.
absl::StatusOr<std::string> FindKeepstepd();

// What `program` prints until it ends with 0. Otherwise what it says on standard error is the message.
absl::StatusOr<std::string> OutputOf(const std::string& program, const std::vector<std::string>& arguments,
                                     int64_t timeout_ms);

// Runs `program` in its own session, in /, on every processor that the caller's control group allows, with
// its errors appended to `log_path` (made 0600), and returns what it says when it is ready: "keepstepd 0.1.0
// ready on unix:///…". Otherwise the end of its log is the message.
absl::StatusOr<std::string> LaunchService(const std::string& program,
                                          const std::vector<std::string>& arguments,
                                          const std::string& log_path, int64_t timeout_ms);

// A keepstepd that ends with this object, and with this process however that ends.
class ChildDaemon {
 public:
  // As LaunchService; its errors go to a temporary file.
  static absl::StatusOr<std::unique_ptr<ChildDaemon>> Start(const std::string& program,
                                                            const std::vector<std::string>& arguments,
                                                            int64_t timeout_ms);
  ~ChildDaemon();  // SIGTERM, then waits; SIGKILL after 5 s

  std::string address() const;  // unix:///…, from its ready line

 private:
  ChildDaemon(pid_t pid, std::string ready_line) : pid_(pid), ready_line_(std::move(ready_line)) {}

  const pid_t pid_;
  const std::string ready_line_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_LAUNCH_H_
