// A BlobStore that counts: wraps another one and times every operation, its bytes and its errors.
//
// Publishing what is there already, looking for what is not, and deleting nothing are answers, not errors:
// those codes are not counted (ALREADY_EXISTS, NOT_FOUND).

#ifndef KEEPSTEP_DAEMON_METERED_STORE_H_
#define KEEPSTEP_DAEMON_METERED_STORE_H_

#include <memory>
#include <string>
#include <vector>

#include "daemon/metrics.h"
#include "storage/blob_store.h"

namespace keepstep::daemon {

class MeteredStore : public storage::BlobStore {
 public:
  // `metrics` outlives the store and its writers and readers.
  MeteredStore(std::shared_ptr<storage::BlobStore> wrapped, Metrics* metrics)
      : wrapped_(std::move(wrapped)), metrics_(metrics) {}

  absl::StatusOr<std::unique_ptr<storage::BlobWriter>> Create(const storage::BlobPath& path,
                                                              int64_t size_hint_bytes) override;
  absl::StatusOr<std::unique_ptr<storage::BlobReader>> Open(const storage::BlobPath& path) override;
  absl::Status PublishExclusive(const storage::BlobPath& path, absl::string_view bytes) override;
  absl::StatusOr<std::string> ReadPublished(const storage::BlobPath& path) override;
  absl::Status SyncTree(const storage::BlobPath& directory) override;
  absl::StatusOr<std::vector<storage::BlobInfo>> List(const storage::BlobPath& directory) override;
  absl::Status Delete(const storage::BlobPath& path) override;
  absl::StatusOr<int64_t> SpaceAvailable() override;

 private:
  const std::shared_ptr<storage::BlobStore> wrapped_;
  Metrics* const metrics_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_METERED_STORE_H_
