// A committed checkpoint as loads see it: blobs cut into chunks, extents by number, tensors by name.
// Immutable; share it between the loads of all ranks.

#ifndef KEEPSTEP_DAEMON_STORED_CHECKPOINT_H_
#define KEEPSTEP_DAEMON_STORED_CHECKPOINT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/chunk_grid.h"
#include "proto/storage.pb.h"
#include "reshard/load_plan.h"
#include "storage/blob_path.h"

namespace keepstep::daemon {

// One contiguous run of a blob with its own digests: a box of a tensor, or an item of an extra.
struct StoredExtent {
  uint32_t blob = 0;
  uint32_t place = 0;  // among the blob's extents
  int64_t offset_bytes = 0;
  int64_t size_bytes = 0;
  absl::string_view block_digests;  // 16 bytes a block; lives in the parts
  absl::string_view owner;          // fqn, or name of the extra: for messages
};

struct StoredBlob {
  storage::BlobPath path = storage::BlobPath::Root();
  int64_t size_bytes = 0;
  int64_t header_bytes = 0;
  std::string header_digest;
  std::vector<uint32_t> extents;  // indices, in the order of their bytes
  std::vector<Chunk> chunks;      // Chunk::first_extent counts in `extents`
};

struct StoredExtra {
  const v1::ExtraRecord* record = nullptr;
  std::vector<uint32_t> extents;  // one an item
};

class StoredCheckpoint {
 public:
  // `parts` are the checkpoint's, their own digests verified. `buffer_bytes` is the pool's. DATA_LOSS when
  // they contradict themselves or each other: sizes, digests, bytes outside a blob, holes between extents.
  static absl::StatusOr<std::shared_ptr<const StoredCheckpoint>> Make(
      const storage::BlobPath& attempt_directory, std::vector<v1::Part> parts, int64_t buffer_bytes);

  // By name or alias; nullptr when absent. Its boxes' `extent` are indices of extent().
  const reshard::StoredTensor* Find(absl::string_view fqn) const;

  const std::vector<reshard::StoredTensor>& tensors() const { return tensors_; }
  const std::vector<std::string>& names() const { return names_; }  // aliases too; sorted
  const std::vector<StoredBlob>& blobs() const { return blobs_; }
  const std::vector<StoredExtra>& extras() const { return extras_; }
  const StoredExtent& extent(uint32_t index) const { return extents_[index]; }
  size_t extent_count() const { return extents_.size(); }
  const std::vector<v1::Part>& parts() const { return parts_; }

 private:
  StoredCheckpoint() = default;

  absl::Status AddBlobs(const storage::BlobPath& directory, const v1::Part& part);
  absl::Status AddTensors(const v1::Part& part, uint32_t first_blob);
  absl::Status AddExtras(const v1::Part& part, uint32_t first_blob);
  absl::StatusOr<uint32_t> AddExtent(const StoredExtent& extent);
  absl::Status CutBlob(StoredBlob& blob, int64_t buffer_bytes);

  std::vector<v1::Part> parts_;
  std::vector<StoredBlob> blobs_;
  std::vector<StoredExtent> extents_;
  std::vector<reshard::StoredTensor> tensors_;
  std::vector<StoredExtra> extras_;
  std::vector<std::string> names_;
  absl::flat_hash_map<std::string, uint32_t> by_name_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_STORED_CHECKPOINT_H_
