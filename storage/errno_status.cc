// The one table from errno values to status codes.

#include "storage/errno_status.h"

#include <errno.h>
#include <string.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "storage/disk_full.h"

namespace keepstep::storage {
namespace {

absl::StatusCode Code(IoSide side, int error) {
  switch (error) {
    case ENOENT:
      return absl::StatusCode::kNotFound;
    case EEXIST:
      return absl::StatusCode::kAlreadyExists;
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
    case EMLINK:
      return absl::StatusCode::kResourceExhausted;
    case EACCES:
    case EPERM:
    case EROFS:
    case ELOOP:  // a symbolic link inside the store
    case EXDEV:  // a path that leads out of the store
      return absl::StatusCode::kPermissionDenied;
    case ENAMETOOLONG:
      return absl::StatusCode::kInvalidArgument;
    case ENOTDIR:
    case EISDIR:
    case ENOTEMPTY:
    case ENOSYS:
    case EOPNOTSUPP:
      return absl::StatusCode::kFailedPrecondition;
    case ESTALE:
    case ETIMEDOUT:
      return absl::StatusCode::kUnavailable;
    default:
      return side == IoSide::kRead ? absl::StatusCode::kUnavailable : absl::StatusCode::kAborted;
  }
}

}  // namespace

absl::Status ErrnoStatus(IoSide side, int error, absl::string_view syscall, absl::string_view path) {
  const std::string message = absl::StrCat(path.empty() ? "." : path, ": ", syscall, ": ", strerror(error));
  return error == ENOSPC || error == EDQUOT ? DiskFull(message) : absl::Status(Code(side, error), message);
}

}  // namespace keepstep::storage
