// The directories and names of a FileStore: everything beneath one directory descriptor, which the kernel
// enforces.
//
// Invariant: no call leaves the root, through no link of any kind, whatever the owner of the tree does
// meanwhile: every open is openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS), every
// other call names one leaf of an open directory.

#ifndef KEEPSTEP_STORAGE_FILE_TREE_H_
#define KEEPSTEP_STORAGE_FILE_TREE_H_

#include <sys/types.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "storage/blob_path.h"
#include "storage/errno_status.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {

// Thread-safe; every call blocks.
class FileTree {
 public:
  FileTree(UniqueFd root, mode_t file_mode, mode_t directory_mode)
      : root_(std::move(root)), file_mode_(file_mode), directory_mode_(directory_mode) {}

  // Opens `path`; `flags` as for open, O_CLOEXEC added, `file_mode` used with O_CREAT. FAILED_PRECONDITION
  // naming openat2 where the kernel lacks it: nothing else confines a path.
  absl::StatusOr<UniqueFd> OpenAt(const BlobPath& path, int flags, IoSide side) const;

  // An existing directory, open for reading.
  absl::StatusOr<UniqueFd> OpenDirectory(const BlobPath& directory, IoSide side) const;

  // A directory, made with those above it as needed.
  absl::StatusOr<UniqueFd> MakeDirectory(const BlobPath& directory) const;

  // Flushes the names in `directory` and in every directory above it, the root included.
  absl::Status SyncUpwards(const BlobPath& directory) const;

  // Removes a file or an empty directory; OK when it is already gone.
  absl::Status Remove(const BlobPath& path) const;

 private:
  const UniqueFd root_;
  const mode_t file_mode_;
  const mode_t directory_mode_;
};

// fsync of `fd`, once: a second one after a failure would say OK about pages that the kernel has dropped.
absl::Status FlushFile(int fd, const BlobPath& path);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_FILE_TREE_H_
