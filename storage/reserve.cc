#include "storage/reserve.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {
namespace {

// What hinders for good is not tried with every record.
bool CannotReserve(int error) { return error == EOPNOTSUPP || error == ENOSYS; }

}  // namespace

// A file that a crash left without its room gets it here.
bool Reserve::Make() const {
  absl::StatusOr<UniqueFd> fd = tree_.OpenAt(path_, O_WRONLY | O_NONBLOCK, IoSide::kWrite);
  if (absl::IsNotFound(fd.status())) fd = tree_.CreateFile(path_);
  if (!fd.ok()) return false;
  if (fallocate(fd->get(), 0, 0, size_bytes_) == 0) return true;
  const bool cannot = CannotReserve(errno);
  tree_.Remove(path_).IgnoreError();
  return cannot;
}

void Reserve::Keep() {
  if (kept_) return;
  std::lock_guard<std::mutex> lock(mutex_);
  if (!kept_) kept_ = Make();
}

bool Reserve::GiveUp() {
  std::lock_guard<std::mutex> lock(mutex_);
  kept_ = false;
  return tree_.OpenAt(path_, O_RDONLY | O_NONBLOCK, IoSide::kRead).ok() && tree_.Remove(path_).ok();
}

}  // namespace keepstep::storage
