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
// A directory may be deleted, empty, between its making and its use.
constexpr int kMaxMakeTries = 4;
constexpr mode_t kFileMode = 0644, kDirectoryMode = 0755;  // without an ownership

int OpenBeneath(int root, const char* path, int flags) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.mode = (flags & O_CREAT) != 0 ? kFileMode : 0;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  for (int tries = 1;; ++tries) {
    const long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));
    if (fd >= 0 || tries == kMaxOpenTries || (errno != EINTR && errno != EAGAIN)) return static_cast<int>(fd);
  }
}

std::string LeafOf(const BlobPath& path) { return std::string(path.Leaf()); }

bool IsOwnedByProcess(int fd) {
  struct stat about;
  return fstat(fd, &about) == 0 && about.st_uid == geteuid();
}

}  // namespace

absl::StatusOr<UniqueFd> FileTree::OpenAt(const BlobPath& path, int flags, IoSide side) const {
  UniqueFd fd(OpenBeneath(root_.get(), path.is_root() ? "." : path.text().c_str(), flags));
  if (!fd.valid()) return ErrnoStatus(side, errno, "openat2", path.text());
  return fd;
}

absl::StatusOr<UniqueFd> FileTree::OpenDirectory(const BlobPath& directory, IoSide side) const {
  return OpenAt(directory, O_RDONLY | O_DIRECTORY, side);
}

bool FileTree::IsDeleted() const {
  struct stat info;
  return fstat(root_.get(), &info) == 0 ? info.st_nlink == 0 : errno == ESTALE;
}

absl::Status FileTree::Own(int fd, const BlobPath& path) const {
  return ownership_ == nullptr ? absl::OkStatus() : ownership_->Apply(fd, path.text());
}

absl::StatusOr<UniqueFd> FileTree::CreateFile(const BlobPath& path) const {
  absl::StatusOr<UniqueFd> fd = absl::UnavailableError("");
  for (int tries = 0; tries < kMaxMakeTries; ++tries) {
    if (absl::StatusOr<UniqueFd> parent = MakeDirectory(path.Parent()); !parent.ok()) return parent.status();
    fd = OpenAt(path, O_WRONLY | O_CREAT | O_EXCL, IoSide::kWrite);
    if (!absl::IsNotFound(fd.status())) break;
  }
  if (!fd.ok()) return fd;
  if (absl::Status status = Own(fd->get(), path); !status.ok()) {
    Remove(path).IgnoreError();  // nobody has seen it
    return status;
  }
  return fd;
}

absl::StatusOr<UniqueFd> FileTree::CreateTemporary(int directory_fd, const std::string& leaf,
                                                   const BlobPath& path) const {
  UniqueFd fd(
      openat(directory_fd, leaf.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, kFileMode));
  if (!fd.valid()) return ErrnoStatus(IoSide::kWrite, errno, "openat (temporary file)", path.text());
  if (absl::Status status = Own(fd.get(), path); !status.ok()) return status;
  return fd;
}

absl::StatusOr<UniqueFd> FileTree::CreateUnnamed(int directory_fd, const BlobPath& path) const {
  UniqueFd fd(openat(directory_fd, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, kFileMode));
  if (!fd.valid()) {
    const bool lacking = errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL || errno == ENOENT;
    absl::Status status = ErrnoStatus(IoSide::kWrite, errno, "openat (unnamed file)", path.text());
    return lacking ? absl::UnimplementedError(status.message()) : status;
  }
  if (absl::Status status = Own(fd.get(), path); !status.ok()) return status;
  return fd;
}

absl::StatusOr<UniqueFd> FileTree::MakeDirectory(const BlobPath& directory) const {
  bool made = false;
  for (int tries = 1;; ++tries) {
    absl::StatusOr<UniqueFd> found = OpenDirectory(directory, IoSide::kWrite);
    if (directory.is_root()) return found;
    if (found.ok()) {
      // Only what this process made is given away, however its name came to be here.
      const bool ours = ownership_ != nullptr &&
                        (made ? IsOwnedByProcess(found->get()) : ownership_->IsLeftover(found->get()));
      if (absl::Status status = ours ? Own(found->get(), directory) : absl::OkStatus(); !status.ok())
        return status;
      return found;
    }
    if (!absl::IsNotFound(found.status()) || tries == kMaxMakeTries) return found;
    absl::StatusOr<UniqueFd> parent = MakeDirectory(directory.Parent());
    if (!parent.ok()) return parent;
    made = mkdirat(parent->get(), LeafOf(directory).c_str(), kDirectoryMode) == 0;
    if (!made && errno != EEXIST && errno != ENOENT)
      return ErrnoStatus(IoSide::kWrite, errno, "mkdirat", directory.text());
  }
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
