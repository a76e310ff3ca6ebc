// A file descriptor with one owner, closed on destruction.

#ifndef KEEPSTEP_STORAGE_UNIQUE_FD_H_
#define KEEPSTEP_STORAGE_UNIQUE_FD_H_

#include <errno.h>
#include <unistd.h>

#include <utility>

namespace keepstep::storage {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}  // takes `fd`; negative: none
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd() { Close(); }

  bool valid() const { return fd_ >= 0; }
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }  // the caller owns it now

  // Closes and returns 0 or the errno value of close, which tells of writes that failed late. The descriptor
  // is gone either way.
  int Close() {
    const int fd = std::exchange(fd_, -1);
    return fd < 0 || close(fd) == 0 ? 0 : errno;
  }

 private:
  int fd_ = -1;
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_UNIQUE_FD_H_
