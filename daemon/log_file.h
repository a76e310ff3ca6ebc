// The log's file, which takes the place of standard error, so that what a library or a crash says is there
// too.
//
//   1. FILE grows to `limit_bytes`.
//   2. Then it becomes FILE.1, in place of an older one, and a new FILE begins.
// So both together hold at most twice the limit, and what one line and the others of standard error add to
// it.

#ifndef KEEPSTEP_DAEMON_LOG_FILE_H_
#define KEEPSTEP_DAEMON_LOG_FILE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace keepstep::daemon {

class LogFile {
 public:
  // Appends to `path` (made 0600), from now on by descriptor 2. Errors of open(2).
  static absl::StatusOr<std::unique_ptr<LogFile>> Open(std::string path, int64_t limit_bytes);

  // After a line. One caller at a time; a file that cannot be renamed grows on, and is tried again.
  void Look();

 private:
  LogFile(std::string path, int64_t limit_bytes) : path_(std::move(path)), limit_bytes_(limit_bytes) {}
  absl::Status Begin() const;

  const std::string path_;
  const int64_t limit_bytes_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOG_FILE_H_
