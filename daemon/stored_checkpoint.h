// A committed checkpoint as loads see it: blobs cut into chunks, extents by number, tensors by name.
// Immutable; share it between the loads of all ranks.

#ifndef KEEPSTEP_DAEMON_STORED_CHECKPOINT_H_
#define KEEPSTEP_DAEMON_STORED_CHECKPOINT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/chunk_grid.h"
#include "proto/storage.pb.h"
#include "reshard/load_plan.h"
#include "storage/blob_path.h"
#include "storage/blob_store.h"
#include "storage/checkpoint_reader.h"

namespace keepstep::daemon {

// One contiguous run of a blob with its own digests: a box of a tensor, or an item of an extra.
struct StoredExtent {
  uint32_t blob = 0;
  uint32_t place = 0;  // among the blob's extents
  int64_t offset_bytes = 0;
  int64_t size_bytes = 0;
  absl::string_view block_digests;  // 16 bytes a block; lives in the checkpoint
  absl::string_view owner;          // fqn, or name of the extra: for messages
};

struct StoredBlob {
  storage::BlobPath path = storage::BlobPath::Root();
  int64_t size_bytes = 0;
  int64_t header_bytes = 0;
  std::string header_digest;
  std::vector<uint32_t> extents;      // indices, in the order of their bytes
  std::vector<int64_t> first_blocks;  // by place: how many blocks lie before the extent
  std::vector<Chunk> chunks;          // Chunk::first_extent counts in `extents`
};

// One block of a chunk.
struct BlockPlace {
  int64_t offset_bytes = 0;  // in the blob
  int64_t size_bytes = 0;
  uint32_t extent = 0;
  absl::string_view digest;
};

struct StoredExtra {
  std::string name;
  int32_t rank = 0;
  std::vector<int64_t> coordinate;
  bool splittable = false;
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

  // By name, aliases included; and which names are aliases of which.
  const std::map<std::string, reshard::StoredTensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& alias_of() const { return alias_of_; }
  const std::vector<std::string>& names() const { return names_; }  // of tensors(); sorted
  const std::vector<StoredBlob>& blobs() const { return blobs_; }
  const std::vector<StoredExtra>& extras() const { return extras_; }
  const StoredExtent& extent(uint32_t index) const { return extents_[index]; }
  std::vector<BlockPlace> BlocksOf(const StoredBlob& blob, const Chunk& chunk) const;
  size_t extent_count() const { return extents_.size(); }

 private:
  StoredCheckpoint() = default;

  void Reserve(const std::vector<v1::Part>& parts);
  absl::Status AddBlobs(const storage::BlobPath& directory, const v1::Part& part);
  absl::Status AddExtents(const storage::StoredContents& contents, const std::vector<uint32_t>& first_blobs);
  absl::Status AddExtras(const v1::Part& part, uint32_t first_blob);
  absl::Status AddExtent(const StoredExtent& extent);
  absl::Status CutBlob(StoredBlob& blob, int64_t buffer_bytes);

  // Nothing here points into the parts, which are several times as large.
  std::map<std::string, reshard::StoredTensor> tensors_;
  std::map<std::string, std::string> alias_of_;
  std::vector<StoredBlob> blobs_;
  std::string digests_;                // of all extents in turn; reserved whole, so that it stays where it is
  std::vector<StoredExtent> extents_;  // tensors' first, in the order of the parts
  std::vector<StoredExtra> extras_;
  std::vector<std::string> names_;
};

// DATA_LOSS when the file is missing or has another size: a committed checkpoint says that it is there.
absl::StatusOr<std::unique_ptr<storage::BlobReader>> OpenBlob(storage::BlobStore& store,
                                                              const StoredBlob& blob);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_STORED_CHECKPOINT_H_
