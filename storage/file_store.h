// A BlobStore of files beneath one directory.
//
//   PublishExclusive: write a file without a name in the record's directory → fsync → link it to its name
//   (renameat2(RENAME_NOREPLACE) where links are not to be had) → fsync the directories up to the root. A
//   name that is there already gets the last step too.
//
// Files belong to whom the options say (ownership.h) before anyone can see them. Nothing here changes the
// process's own identity or umask.

#ifndef KEEPSTEP_STORAGE_FILE_STORE_H_
#define KEEPSTEP_STORAGE_FILE_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "storage/blob_store.h"
#include "storage/file_tree.h"
#include "storage/io_engine.h"
#include "storage/reserve.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {

struct FileStoreOptions {
  bool direct = true;                          // O_DIRECT where the file system takes it
  std::shared_ptr<const Ownership> ownership;  // null: the process's own, 0644 and 0755 within its umask
  // Where a reserve for records is kept, and how large (reserve.h); made with the first record.
  BlobPath reserve_path = BlobPath::Root();
  int64_t reserve_bytes = 0;  // 0: none
};

class FileStore : public BlobStore {
 public:
  // Takes `root`, an open directory. `engine` outlives the store and all its writers, readers and their
  // operations. FAILED_PRECONDITION where the kernel cannot confine paths to a directory (openat2: Linux 5.6,
  // often blocked by old sandboxes).
  static absl::StatusOr<std::unique_ptr<FileStore>> Start(UniqueFd root, IoEngine* engine,
                                                          FileStoreOptions options);

  absl::StatusOr<std::unique_ptr<BlobWriter>> Create(const BlobPath& path, int64_t size_hint_bytes) override;
  absl::StatusOr<std::unique_ptr<BlobReader>> Open(const BlobPath& path) override;
  absl::Status PublishExclusive(const BlobPath& path, absl::string_view bytes) override;
  absl::StatusOr<std::string> ReadPublished(const BlobPath& path) override;
  absl::Status SyncTree(const BlobPath& directory) override;
  absl::StatusOr<std::vector<BlobInfo>> List(const BlobPath& directory) override;
  absl::Status Delete(const BlobPath& path) override;
  absl::StatusOr<int64_t> SpaceAvailable() override;

  // Whether somebody has deleted the directory: then nothing can be kept in it any more.
  bool IsDeleted() const { return tree_.IsDeleted(); }

 private:
  FileStore(UniqueFd root, IoEngine* engine, FileStoreOptions options);

  const FileTree tree_;
  IoEngine* const engine_;
  const FileStoreOptions options_;
  Reserve reserve_;
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_FILE_STORE_H_
