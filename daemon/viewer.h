// Who looks over HTTP, and which jobs he may see.
//
// The operator (root or the daemon's own user on a Unix socket, or the bearer of the operator's token) sees
// every job; any other peer of a Unix socket sees the jobs that are his. TCP does not say who calls: without
// the token it shows the jobs of the daemon's own user, and counts of all.

#ifndef KEEPSTEP_DAEMON_VIEWER_H_
#define KEEPSTEP_DAEMON_VIEWER_H_

#include <sys/types.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/http_server.h"
#include "daemon/job_registry.h"

namespace keepstep::daemon {

struct Viewer {
  bool is_operator = false;
  uid_t uid = 0;
};

// The operator's, which a reload changes; empty: there is none. Thread-safe.
class OperatorToken {
 public:
  void Set(std::string token) {
    std::lock_guard lock(mutex_);
    token_ = std::move(token);
  }
  std::string Get() const {
    std::lock_guard lock(mutex_);
    return token_;
  }

 private:
  mutable std::mutex mutex_;
  std::string token_;
};

// `token` empty: nobody is the operator by token.
Viewer ViewerOf(const HttpRequest& request, const std::string& token);

std::vector<std::shared_ptr<Job>> VisibleTo(const Viewer& viewer, const JobRegistry& jobs);

// The first line of the file: at least 16 bytes, else INVALID_ARGUMENT. FAILED_PRECONDITION: it cannot be
// read, or others than its owner and group may read it.
absl::StatusOr<std::string> ReadToken(const std::string& path);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_VIEWER_H_
