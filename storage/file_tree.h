// The directories and names of a FileStore: everything beneath one directory descriptor, which the kernel
// enforces.
//
// Invariant: no call leaves the root, through no link of any kind, whatever the owner of the tree does
// meanwhile: every open is openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS), every
// other call names one leaf of an open directory.

#ifndef KEEPSTEP_STORAGE_FILE_TREE_H_
#define KEEPSTEP_STORAGE_FILE_TREE_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "storage/blob_path.h"
#include "storage/errno_status.h"
#include "storage/ownership.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {

// Thread-safe; every call blocks.
class FileTree {
 public:
  // `ownership` of what is created here; null: the process's own.
  FileTree(UniqueFd root, std::shared_ptr<const Ownership> ownership)
      : root_(std::move(root)), ownership_(std::move(ownership)) {}

  // Opens `path`; `flags` as for open without O_CREAT, O_CLOEXEC added. FAILED_PRECONDITION naming openat2
  // where the kernel lacks it: nothing else confines a path.
  absl::StatusOr<UniqueFd> OpenAt(const BlobPath& path, int flags, IoSide side) const;

  // A new file, open for writing, with the directories above it; ALREADY_EXISTS if anything is at `path`.
  absl::StatusOr<UniqueFd> CreateFile(const BlobPath& path) const;

  // A new file of that name in an open directory, for a record on its way to its own name (`path`).
  absl::StatusOr<UniqueFd> CreateTemporary(int directory_fd, const std::string& leaf,
                                           const BlobPath& path) const;

  // The same without a name: it is gone with its descriptor unless it is linked. UNIMPLEMENTED where the file
  // system has no such files.
  absl::StatusOr<UniqueFd> CreateUnnamed(int directory_fd, const BlobPath& path) const;

  // An existing directory, open for reading.
  absl::StatusOr<UniqueFd> OpenDirectory(const BlobPath& directory, IoSide side) const;

  // A directory, made with those above it as needed.
  absl::StatusOr<UniqueFd> MakeDirectory(const BlobPath& directory) const;

  // Flushes the names in `directory` and in every directory above it, the root included.
  absl::Status SyncUpwards(const BlobPath& directory) const;

  // Removes a file or an empty directory; OK when it is already gone.
  absl::Status Remove(const BlobPath& path) const;

  // Whether somebody has deleted the root: then nothing can be made in it any more.
  bool IsDeleted() const;

 private:
  absl::Status Own(int fd, const BlobPath& path) const;

  const UniqueFd root_;
  const std::shared_ptr<const Ownership> ownership_;
};

// fsync of `fd`, once: a second one after a failure would say OK about pages that the kernel has dropped.
absl::Status FlushFile(int fd, const BlobPath& path);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_FILE_TREE_H_
