// A BlobStore in memory: the contract without a disk, for tests and simulation.
//
// Invariant: every directory above an entry is an entry itself.

#ifndef KEEPSTEP_STORAGE_MEMORY_STORE_H_
#define KEEPSTEP_STORAGE_MEMORY_STORE_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "storage/blob_store.h"

namespace keepstep::storage {

struct MemoryBlob {
  std::mutex mutex;
  std::string bytes ABSL_GUARDED_BY(mutex);
};

// `done` of its writers and readers runs within the call.
class MemoryStore : public BlobStore {
 public:
  explicit MemoryStore(int64_t space_bytes = int64_t{1} << 40) : space_bytes_(space_bytes) {}

  absl::StatusOr<std::unique_ptr<BlobWriter>> Create(const BlobPath& path, int64_t size_hint_bytes) override;
  absl::StatusOr<std::unique_ptr<BlobReader>> Open(const BlobPath& path) override;
  absl::Status PublishExclusive(const BlobPath& path, absl::string_view bytes) override;
  absl::StatusOr<std::string> ReadPublished(const BlobPath& path) override;
  absl::Status SyncTree(const BlobPath& directory) override;
  absl::StatusOr<std::vector<BlobInfo>> List(const BlobPath& directory) override;
  absl::Status Delete(const BlobPath& path) override;
  absl::StatusOr<int64_t> SpaceAvailable() override;

 private:
  absl::StatusOr<std::shared_ptr<MemoryBlob>> Add(const BlobPath& path) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status MakeDirectories(const BlobPath& directory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::shared_ptr<MemoryBlob>> Find(const BlobPath& path);
  bool HasChildren(const BlobPath& path) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t UsedBytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t space_bytes_;
  mutable std::mutex mutex_;  // taken before any blob's
  std::map<BlobPath, std::shared_ptr<MemoryBlob>> entries_ ABSL_GUARDED_BY(mutex_);  // nullptr: a directory
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_MEMORY_STORE_H_
