#include "storage/ownership.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "storage/blob_store.h"
#include "storage/errno_status.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {
namespace {

constexpr mode_t kPermissions = 07777;

absl::Status Denied(absl::string_view message) { return absl::PermissionDeniedError(message); }

std::string Who() { return absl::StrCat("keepstepd (uid ", geteuid(), ")"); }

}  // namespace

Ownership::Ownership(const struct stat& directory)
    : uid_(directory.st_uid), gid_(directory.st_gid), umask_(kDefaultUmask | (~directory.st_mode & 0077)) {}

absl::Status Ownership::Apply(int fd, absl::string_view path) const {
  struct stat about;
  if (fstat(fd, &about) != 0) return ErrnoStatus(IoSide::kWrite, errno, "fstat", path);
  if (about.st_uid != uid_) {
    if (fchown(fd, uid_, gid_) != 0) return ErrnoStatus(IoSide::kWrite, errno, "fchown", path);
  } else if (about.st_gid != gid_ && fchown(fd, static_cast<uid_t>(-1), gid_) != 0 && errno != EPERM) {
    return ErrnoStatus(IoSide::kWrite, errno, "fchown", path);
  }
  const bool directory = S_ISDIR(about.st_mode);
  const mode_t wanted = ((directory ? 0777 : 0666) & ~umask_.load()) | (directory ? 0700 : 0600) |
                        (directory ? about.st_mode & S_ISGID : 0);
  if ((about.st_mode & kPermissions) != wanted && fchmod(fd, wanted) != 0)
    return ErrnoStatus(IoSide::kWrite, errno, "fchmod", path);
  return absl::OkStatus();
}

bool Ownership::IsLeftover(int fd) const {
  struct stat about;
  return geteuid() != uid_ && fstat(fd, &about) == 0 && about.st_uid == geteuid();
}

absl::Status ProbeOwnership(int directory_fd, const Ownership& ownership, const char** reason) {
  *reason = "CANNOT_WRITE";
  uint64_t random = 0;
  if (getrandom(&random, sizeof(random), 0) != sizeof(random))
    return ErrnoStatus(IoSide::kWrite, errno, "getrandom", "probe");
  const std::string name = absl::StrCat(kTemporaryPrefix, "probe-", absl::Hex(random, absl::kZeroPad16));
  UniqueFd fd(openat(directory_fd, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd.valid()) {
    const int error = errno;
    if (error != EACCES && error != EPERM && error != EROFS)
      return ErrnoStatus(IoSide::kRead, error, "openat", name);  // nothing is lost: it can be tried again
    return Denied(absl::StrCat(
        Who(), " cannot create files in the job's directory: ", strerror(error),
        error == EROFS ? ". It is mounted read-only: mount it writable, or name another directory."
                       : absl::StrCat(". Where root is squashed (NFS), run keepstepd as uid ",
                                      ownership.uid(), "; else give it the right to write there.")));
  }
  const absl::Status applied = ownership.Apply(fd.get(), name);
  struct stat about {};
  // A server that squashes root may accept the change and keep its own idea.
  const bool right = applied.ok() && fstat(fd.get(), &about) == 0 && about.st_uid == ownership.uid();
  unlinkat(directory_fd, name.c_str(), 0);
  if (right) return absl::OkStatus();
  *reason = "CANNOT_OWN";
  return Denied(absl::StrCat(
      Who(), " cannot give files in the job's directory to its owner, uid ", ownership.uid(),
      applied.ok() ? ": the server gave them to another uid" : absl::StrCat(": ", applied.message()),
      ". Run keepstepd as root or as uid ", ownership.uid(), "."));
}

}  // namespace keepstep::storage
