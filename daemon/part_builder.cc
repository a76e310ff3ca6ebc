#include "daemon/part_builder.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "reshard/dtype.h"
#include "storage/digest.h"
#include "storage/record.h"
#include "storage/safetensors.h"

namespace keepstep::daemon {
namespace {

class Builder {
 public:
  explicit Builder(v1::Part* part) : part_(part) {}

  void AddBlob(const SavedShare& share, const SavedBlob& blob) {
    const auto index = static_cast<uint32_t>(part_->blobs_size());
    v1::Blob& record = *part_->add_blobs();
    record.set_name(blob.name);
    record.set_size_bytes(blob.size_bytes);
    record.set_header_bytes(blob.header_bytes);
    record.set_header_digest(blob.header_digest);
    size_t next = 0;
    for (; next < blob.extents.size() && blob.extents[next].shard != nullptr; ++next)
      AddExtent(index, share, blob, blob.extents[next]);
    for (const SavedExtra& extra : blob.extras) {
      AddExtra(index, share.rank, extra, blob, next);
      next += extra.items;
    }
  }

 private:
  // Ranks of one node hold boxes of the same tensors: one entry for all.
  uint32_t TensorIndex(const SavedShare& share, const SavedExtent& extent) {
    const reshard::TensorMeta& described = extent.shard->meta;
    const auto [place, is_new] =
        tensors_.try_emplace(described.fqn, static_cast<uint32_t>(part_->tensors_size()));
    v1::StoredTensor& record =
        is_new ? *part_->add_tensors() : *part_->mutable_tensors(static_cast<int>(place->second));
    if (is_new) {
      v1::TensorMeta& meta = *record.mutable_meta();
      meta.set_fqn(described.fqn);
      meta.set_dtype(std::string(reshard::DTypeName(described.dtype)));
      meta.mutable_shape()->Add(described.shape.begin(), described.shape.end());
      meta.set_component(ComponentRecord(described.component));
    }
    for (const uint32_t shard : *extent.alias_shards) {
      const std::string& alias = share.shards->shards[shard].meta.fqn;
      const auto& known = record.aliases();
      if (std::find(known.begin(), known.end(), alias) == known.end()) record.add_aliases(alias);
    }
    return place->second;
  }

  static v1::Component ComponentRecord(reshard::Component component) {
    switch (component) {
      case reshard::Component::kModel:
        return v1::COMPONENT_MODEL;
      case reshard::Component::kOptimizer:
        return v1::COMPONENT_OPTIMIZER;
      case reshard::Component::kExtra:
        return v1::COMPONENT_EXTRA;
    }
    return v1::COMPONENT_UNSPECIFIED;
  }

  void AddExtent(uint32_t index, const SavedShare& share, const SavedBlob& blob, const SavedExtent& extent) {
    const reshard::Box& box = extent.shard->boxes[extent.box].box;
    v1::Extent& record = *part_->add_extents();
    record.set_tensor(TensorIndex(share, extent));
    record.mutable_box()->mutable_origin()->Add(box.origin.begin(), box.origin.end());
    record.mutable_box()->mutable_shape()->Add(box.shape.begin(), box.shape.end());
    AddBytes(index, blob, extent, record);
    record.set_entry(storage::EntryName(extent.shard->meta.fqn, extent.number));
  }

  // `Record`: an Extent, or an item of an extra.
  template <typename Record>
  static void AddBytes(uint32_t index, const SavedBlob& blob, const SavedExtent& extent, Record& record) {
    const absl::string_view digests = blob.DigestsOf(extent);
    record.set_blob(index);
    record.set_offset_bytes(extent.offset_bytes);
    record.set_size_bytes(extent.size_bytes);
    record.set_digest(storage::DigestOf(digests).ToBytes());
    record.set_block_digests(digests.data(), digests.size());
  }

  void AddExtra(uint32_t index, int32_t rank, const SavedExtra& extra, const SavedBlob& blob, size_t first) {
    v1::ExtraRecord& record = *part_->add_extras();
    record.set_name(extra.name);
    record.set_rank(rank);
    record.mutable_coordinate()->Add(extra.coordinate.begin(), extra.coordinate.end());
    record.set_splittable(extra.splittable);
    for (size_t i = 0; i < extra.items; ++i)
      AddBytes(index, blob, blob.extents[first + i], *record.add_items());
  }

  v1::Part* const part_;
  absl::flat_hash_map<absl::string_view, uint32_t> tensors_;  // names that the shares hold
};

}  // namespace

v1::Part BuildPart(absl::string_view attempt, uint32_t index, uint32_t count,
                   absl::Span<const SavedShare* const> shares, const v1::Decision& intent) {
  v1::Part part;
  part.set_format_version(storage::kRecordVersion);  // so that it is encoded without a copy
  part.set_attempt(std::string(attempt));
  part.set_index(index);
  part.set_count(count);
  *part.mutable_intent() = intent;
  std::vector<const SavedShare*> by_rank(shares.begin(), shares.end());
  std::sort(by_rank.begin(), by_rank.end(), [](const auto* a, const auto* b) { return a->rank < b->rank; });
  Builder builder(&part);
  for (const SavedShare* share : by_rank) {
    for (const SavedBlob& blob : share->blobs) builder.AddBlob(*share, blob);
  }
  return part;
}

}  // namespace keepstep::daemon
