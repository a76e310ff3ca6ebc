// Path resolution is left to the kernel: a walk of our own could be raced by whoever owns the tree.

#include "storage/file_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace keepstep::storage {
namespace {

// EINTR, and EAGAIN when a rename raced the resolution.
constexpr int kMaxOpenTries = 100;

int OpenBeneath(int root, const char* path, int flags, mode_t mode) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.mode = (flags & O_CREAT) != 0 ? mode : 0;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  for (int tries = 1;; ++tries) {
    const long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));
    if (fd >= 0 || tries == kMaxOpenTries || (errno != EINTR && errno != EAGAIN)) return static_cast<int>(fd);
  }
}

std::string LeafOf(const BlobPath& path) { return std::string(path.Leaf()); }

}  // namespace

absl::StatusOr<UniqueFd> FileTree::OpenAt(const BlobPath& path, int flags, IoSide side) const {
  UniqueFd fd(OpenBeneath(root_.get(), path.is_root() ? "." : path.text().c_str(), flags, file_mode_));
  if (!fd.valid()) return ErrnoStatus(side, errno, "openat2", path.text());
  return fd;
}

absl::StatusOr<UniqueFd> FileTree::OpenDirectory(const BlobPath& directory, IoSide side) const {
  return OpenAt(directory, O_RDONLY | O_DIRECTORY, side);
}

absl::StatusOr<UniqueFd> FileTree::MakeDirectory(const BlobPath& directory) const {
  absl::StatusOr<UniqueFd> found = OpenDirectory(directory, IoSide::kWrite);
  if (found.ok() || found.status().code() != absl::StatusCode::kNotFound || directory.is_root()) return found;
  absl::StatusOr<UniqueFd> parent = MakeDirectory(directory.Parent());
  if (!parent.ok()) return parent;
  if (mkdirat(parent->get(), LeafOf(directory).c_str(), directory_mode_) != 0 && errno != EEXIST) {
    return ErrnoStatus(IoSide::kWrite, errno, "mkdirat", directory.text());
  }
  return OpenDirectory(directory, IoSide::kWrite);
}

absl::Status FileTree::SyncUpwards(const BlobPath& directory) const {
  for (BlobPath at = directory;; at = at.Parent()) {
    absl::StatusOr<UniqueFd> fd = OpenDirectory(at, IoSide::kWrite);
    if (!fd.ok()) return fd.status();
    if (absl::Status status = FlushFile(fd->get(), at); !status.ok()) return status;
    if (at.is_root()) return absl::OkStatus();
  }
}

absl::Status FileTree::Remove(const BlobPath& path) const {
  if (path.is_root()) return absl::InvalidArgumentError("a store's root is not deleted");
  absl::StatusOr<UniqueFd> parent = OpenDirectory(path.Parent(), IoSide::kWrite);
  if (parent.status().code() == absl::StatusCode::kNotFound) return absl::OkStatus();
  if (!parent.ok()) return parent.status();
  const std::string leaf = LeafOf(path);
  if (unlinkat(parent->get(), leaf.c_str(), 0) == 0 || errno == ENOENT) return absl::OkStatus();
  // POSIX says EPERM for a directory, Linux EISDIR.
  if (errno != EISDIR && errno != EPERM) return ErrnoStatus(IoSide::kWrite, errno, "unlinkat", path.text());
  const int unlink_error = errno;
  if (unlinkat(parent->get(), leaf.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return absl::OkStatus();
  if (errno == ENOTDIR) return ErrnoStatus(IoSide::kWrite, unlink_error, "unlinkat", path.text());
  if (errno == EEXIST) errno = ENOTEMPTY;
  return ErrnoStatus(IoSide::kWrite, errno, "rmdir", path.text());
}

absl::Status FlushFile(int fd, const BlobPath& path) {
  if (fsync(fd) != 0) return ErrnoStatus(IoSide::kWrite, errno, "fsync", path.text());
  return absl::OkStatus();
}

}  // namespace keepstep::storage
