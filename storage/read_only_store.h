// A BlobStore that cannot change what it shows: reads go to the store beneath, everything else is refused.
//
// SyncTree has nothing to make durable, so it does nothing.

#ifndef KEEPSTEP_STORAGE_READ_ONLY_STORE_H_
#define KEEPSTEP_STORAGE_READ_ONLY_STORE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "storage/blob_store.h"

namespace keepstep::storage {

class ReadOnlyStore : public BlobStore {
 public:
  explicit ReadOnlyStore(std::shared_ptr<BlobStore> beneath) : beneath_(std::move(beneath)) {}

  // FAILED_PRECONDITION.
  absl::StatusOr<std::unique_ptr<BlobWriter>> Create(const BlobPath& path, int64_t size_hint_bytes) override;
  absl::Status PublishExclusive(const BlobPath& path, absl::string_view bytes) override;
  absl::Status Delete(const BlobPath& path) override;

  absl::StatusOr<std::unique_ptr<BlobReader>> Open(const BlobPath& path) override {
    return beneath_->Open(path);
  }
  absl::StatusOr<std::string> ReadPublished(const BlobPath& path) override {
    return beneath_->ReadPublished(path);
  }
  absl::Status SyncTree(const BlobPath& directory) override { return absl::OkStatus(); }
  absl::StatusOr<std::vector<BlobInfo>> List(const BlobPath& directory) override {
    return beneath_->List(directory);
  }
  absl::StatusOr<int64_t> SpaceAvailable() override { return beneath_->SpaceAvailable(); }

 private:
  const std::shared_ptr<BlobStore> beneath_;
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_READ_ONLY_STORE_H_
