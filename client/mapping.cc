#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/failure.h"
#include "client/handoff_client.h"

namespace keepstep::client {

// A memory file that its maker could shrink would end this process with SIGBUS.
absl::StatusOr<Mapping> Mapping::Map(int fd, int64_t size_bytes, bool writable) {
  struct stat info {};
  const int seals = fcntl(fd, F_GET_SEALS);
  if (fstat(fd, &info) != 0 || info.st_size < size_bytes || size_bytes <= 0 || seals < 0 ||
      !(seals & F_SEAL_SHRINK)) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "BAD_HANDOFF",
                     "the daemon handed over memory that is too small or not sealed against shrinking",
                     "open");
  }
  void* data = mmap(nullptr, size_bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) {
    return MakeError(absl::StatusCode::kResourceExhausted, "NO_MEMORY",
                     absl::StrCat("mapping ", size_bytes, " bytes shared with the daemon: ", strerror(errno)),
                     "open");
  }
  Mapping mapping;
  mapping.data_ = static_cast<std::byte*>(data);
  mapping.size_ = size_bytes;
  return mapping;
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, size_);
}

}  // namespace keepstep::client
