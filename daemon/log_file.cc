#include "daemon/log_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace keepstep::daemon {

absl::StatusOr<std::unique_ptr<LogFile>> LogFile::Open(std::string path, int64_t limit_bytes) {
  std::unique_ptr<LogFile> file(new LogFile(std::move(path), limit_bytes));
  if (absl::Status status = file->Begin(); !status.ok()) return status;
  file->Look();
  return file;
}

absl::Status LogFile::Begin() const {
  const int fd = open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0)
    return absl::Status(absl::ErrnoToStatusCode(errno), absl::StrCat("log ", path_, ": ", strerror(errno)));
  const bool placed = dup2(fd, STDERR_FILENO) >= 0;
  close(fd);
  return placed ? absl::OkStatus() : absl::Status(absl::ErrnoToStatusCode(errno), "dup2");
}

void LogFile::Look() {
  struct stat info;
  if (fstat(STDERR_FILENO, &info) != 0 || info.st_size < limit_bytes_) return;
  if (rename(path_.c_str(), absl::StrCat(path_, ".1").c_str()) == 0) Begin().IgnoreError();
}

}  // namespace keepstep::daemon
