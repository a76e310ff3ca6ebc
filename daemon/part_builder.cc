#include "daemon/part_builder.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "reshard/dtype.h"
#include "storage/record.h"

namespace keepstep::daemon {
namespace {

class Builder {
 public:
  explicit Builder(v1::Part* part) : part_(part) {}

  void AddBlob(int32_t rank, const SavedBlob& blob) {
    const auto index = static_cast<uint32_t>(part_->blobs_size());
    v1::Blob& record = *part_->add_blobs();
    record.set_name(blob.name);
    record.set_size_bytes(blob.size_bytes);
    record.set_header_bytes(blob.header_bytes);
    record.set_header_digest(blob.header_digest);
    for (const SavedExtent& extent : blob.extents) AddExtent(index, extent);
    for (const SavedExtra& extra : blob.extras) AddExtra(index, rank, extra);
  }

 private:
  // Ranks of one node hold boxes of the same tensors: one entry for all.
  uint32_t TensorIndex(const SavedExtent& extent) {
    const auto [place, is_new] =
        tensors_.try_emplace(extent.meta.fqn, static_cast<uint32_t>(part_->tensors_size()));
    v1::StoredTensor& record =
        is_new ? *part_->add_tensors() : *part_->mutable_tensors(static_cast<int>(place->second));
    if (is_new) {
      v1::TensorMeta& meta = *record.mutable_meta();
      meta.set_fqn(extent.meta.fqn);
      meta.set_dtype(std::string(reshard::DTypeName(extent.meta.dtype)));
      meta.mutable_shape()->Add(extent.meta.shape.begin(), extent.meta.shape.end());
      meta.set_component(ComponentRecord(extent.meta.component));
    }
    for (const std::string& alias : extent.aliases) {
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

  void AddExtent(uint32_t blob, const SavedExtent& extent) {
    v1::Extent& record = *part_->add_extents();
    record.set_tensor(TensorIndex(extent));
    record.mutable_box()->mutable_origin()->Add(extent.box.origin.begin(), extent.box.origin.end());
    record.mutable_box()->mutable_shape()->Add(extent.box.shape.begin(), extent.box.shape.end());
    record.set_blob(blob);
    record.set_offset_bytes(extent.offset_bytes);
    record.set_size_bytes(extent.size_bytes);
    record.set_digest(extent.digest);
    record.set_block_digests(extent.block_digests);
    record.set_entry(extent.entry);
  }

  void AddExtra(uint32_t blob, int32_t rank, const SavedExtra& extra) {
    v1::ExtraRecord& record = *part_->add_extras();
    record.set_name(extra.name);
    record.set_rank(rank);
    record.mutable_coordinate()->Add(extra.coordinate.begin(), extra.coordinate.end());
    record.set_splittable(extra.splittable);
    for (const SavedItem& item : extra.items) {
      v1::ExtraItem& item_record = *record.add_items();
      item_record.set_blob(blob);
      item_record.set_offset_bytes(item.offset_bytes);
      item_record.set_size_bytes(item.size_bytes);
      item_record.set_digest(item.digest);
      item_record.set_block_digests(item.block_digests);
    }
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
    for (const SavedBlob& blob : share->blobs) builder.AddBlob(share->rank, blob);
  }
  return part;
}

}  // namespace keepstep::daemon
