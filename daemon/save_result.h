// What one rank's share of a save left on storage, as plain values: the input of a part (part_builder.h).

#ifndef KEEPSTEP_DAEMON_SAVE_RESULT_H_
#define KEEPSTEP_DAEMON_SAVE_RESULT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "reshard/save_plan.h"
#include "reshard/tensor.h"
#include "storage/digest.h"

namespace keepstep::daemon {

// One of these a tensor: small, and without memory of its own.
struct SavedExtent {
  const reshard::TensorShard* shard = nullptr;           // of SavedShare::shards; null: an extra's item
  const std::vector<uint32_t>* alias_shards = nullptr;  // of SavedShare::plan
  uint32_t box = 0;                                      // of the shard
  uint32_t number = 0;        // among the shard's boxes here, or the extra's items: storage::EntryName
  int64_t offset_bytes = 0;   // in the file
  int64_t size_bytes = 0;
  int64_t digests_begin = 0;  // bytes, in SavedBlob::block_digests
};

struct SavedExtra {
  std::string name;
  std::vector<int64_t> coordinate;
  bool splittable = false;
  size_t items = 0;
};

struct SavedBlob {
  std::string name;  // file name in the attempt's directory
  int64_t size_bytes = 0;
  int64_t header_bytes = 0;
  std::string header_digest;
  std::vector<SavedExtent> extents;  // in the order of their bytes: tensors, then the items of each extra
  std::vector<SavedExtra> extras;
  std::string block_digests;  // 16 bytes a block of each extent in turn

  absl::string_view DigestsOf(const SavedExtent& extent) const;
};

struct SavedShare {
  int32_t rank = 0;
  std::vector<SavedBlob> blobs;
  std::shared_ptr<const reshard::RankShards> shards;
  std::shared_ptr<const reshard::SavePlan> plan;
};

inline absl::string_view SavedBlob::DigestsOf(const SavedExtent& extent) const {
  return absl::string_view(block_digests)
      .substr(extent.digests_begin, storage::BlockCount(extent.size_bytes) * storage::kDigestBytes);
}

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_SAVE_RESULT_H_
