#include "daemon/save_blob.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "reshard/dtype.h"
#include "storage/attempt.h"
#include "storage/digest.h"
#include "storage/safetensors.h"

namespace keepstep::daemon {
namespace {

// An extra's place in a header: a name that the file's tensors are most unlikely to have; if one has,
// encoding refuses.
constexpr char kExtraEntryPrefix[] = "keepstep.extra/";

}  // namespace

absl::StatusOr<std::unique_ptr<SaveBlob>> SaveBlob::Make(const SaveSpec& spec, reshard::Component component,
                                                         const reshard::BlobPlan* plan, bool with_extras,
                                                         int64_t buffer_bytes) {
  std::unique_ptr<SaveBlob> blob(new SaveBlob(spec));
  blob->result_.name = storage::BlobName(component, spec.shards->rank, spec.world_size);
  if (plan != nullptr) blob->AddTensors(*plan);
  if (with_extras) blob->AddExtras();
  if (blob->result_.extents.size() > storage::kMaxHeaderEntries)
    return absl::ResourceExhaustedError(absl::StrCat(blob->name(), ": more entries than a header may have"));
  blob->Place(buffer_bytes);
  if (blob->result_.header_bytes > storage::kMaxHeaderBytes)
    return absl::ResourceExhaustedError(absl::StrCat(blob->name(), ": a header beyond the format's limit"));
  return blob;
}

void SaveBlob::AddTensors(const reshard::BlobPlan& plan) {
  absl::flat_hash_map<uint32_t, uint32_t> boxes_seen;  // by shard
  result_.extents.reserve(plan.items.size());
  for (const reshard::WriteItem& write : plan.items) {
    SavedExtent extent;
    extent.shard = &spec_.shards->shards[write.shard];
    extent.alias_shards = &write.alias_shards;
    extent.box = write.box;
    extent.number = boxes_seen[write.shard]++;
    extent.size_bytes = write.size_bytes;
    result_.extents.push_back(extent);
  }
  tensors_ = result_.extents.size();
  if (tensors_ > 0) last_group_ = result_.extents.back().shard->group;
}

void SaveBlob::AddExtras() {
  for (const ExtraSource& extra : spec_.extras) {
    result_.extras.push_back({extra.name, extra.coordinate, extra.splittable, extra.items.size()});
    for (uint32_t i = 0; i < extra.items.size(); ++i) {
      SavedExtent extent;
      extent.number = i;
      extent.size_bytes = static_cast<int64_t>(extra.items[i].size());
      result_.extents.push_back(extent);
      extra_items_.push_back(extra.items[i]);
    }
  }
}

TrainerBox SaveBlob::SourceOf(const SavedExtent& extent) const {
  const reshard::TensorShard& shard = *extent.shard;
  return {&shard.boxes[extent.box], spec_.buffer_addresses[shard.buffer],
          reshard::SizeBytes(shard.meta.dtype)};
}

std::vector<storage::HeaderEntry> SaveBlob::Entries() const {
  std::vector<storage::HeaderEntry> entries;
  entries.reserve(result_.extents.size());
  int64_t at = 0;
  const auto add = [&](const SavedExtent& extent, absl::string_view name, reshard::DType dtype,
                       reshard::Box box, reshard::Dims global_shape) {
    entries.push_back({storage::EntryName(name, extent.number), dtype, std::move(box),
                       std::move(global_shape), at, at + extent.size_bytes});
    at += extent.size_bytes;
  };
  size_t index = 0;
  for (; index < tensors_; ++index) {
    const SavedExtent& extent = result_.extents[index];
    const reshard::TensorMeta& meta = extent.shard->meta;
    add(extent, meta.fqn, meta.dtype, extent.shard->boxes[extent.box].box, meta.shape);
  }
  for (const SavedExtra& extra : result_.extras) {
    const std::string name = absl::StrCat(kExtraEntryPrefix, extra.name);
    for (size_t i = 0; i < extra.items; ++i) {
      const SavedExtent& extent = result_.extents[index++];
      add(extent, name, reshard::DType::kU8, reshard::WholeBox({extent.size_bytes}), {extent.size_bytes});
    }
  }
  return entries;
}

void SaveBlob::Place(int64_t buffer_bytes) {
  result_.header_bytes = storage::HeaderUpperBound(Entries());
  std::vector<int64_t> sizes_bytes;
  sizes_bytes.reserve(result_.extents.size());
  int64_t at = result_.header_bytes;
  int64_t blocks = 0;
  for (SavedExtent& extent : result_.extents) {
    extent.offset_bytes = at;
    extent.digests_begin = blocks * static_cast<int64_t>(storage::kDigestBytes);
    at += extent.size_bytes;
    blocks += storage::BlockCount(extent.size_bytes);
    sizes_bytes.push_back(extent.size_bytes);
  }
  result_.size_bytes = at;
  result_.block_digests.resize(blocks * storage::kDigestBytes);
  chunks_ = MakeChunks(result_.header_bytes, sizes_bytes, buffer_bytes);
  carries_.resize(chunks_.size());
}

int64_t SaveBlob::WriteBegin(size_t chunk) const {
  return chunk == 0 ? result_.header_bytes : std::min(ImageEnd(chunks_[chunk - 1]), result_.size_bytes);
}

size_t SaveBlob::FirstExtentAt(int64_t offset_bytes) const {
  const std::vector<SavedExtent>& extents = result_.extents;
  const auto after = std::upper_bound(extents.begin(), extents.end(), offset_bytes,
                                      [](int64_t at, const SavedExtent& extent) {
                                        return at < extent.offset_bytes + extent.size_bytes;
                                      });
  return after - extents.begin();
}

void SaveBlob::ForEachGroup(int64_t begin_bytes, int64_t end_bytes,
                            const std::function<void(uint32_t, int64_t)>& fn) const {
  for (size_t i = FirstExtentAt(begin_bytes); i < tensors_; ++i) {
    const SavedExtent& extent = result_.extents[i];
    if (extent.offset_bytes >= end_bytes) return;
    if (extent.size_bytes == 0) continue;
    fn(GroupOf(extent), std::min(extent.offset_bytes + extent.size_bytes, end_bytes) -
                            std::max(extent.offset_bytes, begin_bytes));
  }
}

absl::Status SaveBlob::Copy(size_t chunk, std::byte* image, MemoryPort& port, Cancellation& cancel) {
  const int64_t image_begin = ImageBegin(chunks_[chunk]);
  const int64_t begin = WriteBegin(chunk);
  const int64_t end = WriteBegin(chunk + 1);
  BoxMover mover(port, Direction::kFromTrainer, cancel);
  for (size_t i = FirstExtentAt(begin); i < result_.extents.size(); ++i) {
    const SavedExtent& extent = result_.extents[i];
    if (extent.offset_bytes >= end) break;
    const int64_t from = std::max(extent.offset_bytes, begin);
    const int64_t to = std::min(extent.offset_bytes + extent.size_bytes, end);
    std::byte* at = image + (from - image_begin);
    if (extent.shard == nullptr) {
      std::memcpy(at, extra_items_[i - tensors_].data() + (from - extent.offset_bytes), to - from);
      continue;
    }
    absl::Status status =
        mover.MoveBytes(from - extent.offset_bytes, to - extent.offset_bytes, SourceOf(extent), at);
    if (!status.ok()) return status;
  }
  if (absl::Status status = mover.Flush(); !status.ok()) return status;
  if (chunk + 1 < chunks_.size()) {
    const int64_t carry_begin = ImageBegin(chunks_[chunk + 1]);
    carries_[chunk + 1].assign(reinterpret_cast<const char*>(image + (carry_begin - image_begin)),
                               end - carry_begin);
  }
  return absl::OkStatus();
}

void SaveBlob::Digest(size_t chunk_index, std::byte* image) {
  const Chunk& chunk = chunks_[chunk_index];
  std::string carry = std::move(carries_[chunk_index]);
  std::memcpy(image, carry.data(), carry.size());
  const std::byte* at = image + (chunk.begin - ImageBegin(chunk));
  size_t index = chunk.first_extent;
  int64_t block = chunk.first_block;
  for (uint32_t i = 0; i < chunk.block_count; ++i) {
    while (block >= storage::BlockCount(result_.extents[index].size_bytes)) {
      ++index;
      block = 0;
    }
    const SavedExtent& extent = result_.extents[index];
    const int64_t size_bytes =
        std::min(storage::kBlockBytes, extent.size_bytes - block * storage::kBlockBytes);
    const storage::Digest128 digest =
        storage::DigestOf(absl::MakeConstSpan(at, static_cast<size_t>(size_bytes)));
    std::memcpy(&result_.block_digests[extent.digests_begin + block * storage::kDigestBytes],
                digest.bytes.data(), storage::kDigestBytes);
    at += size_bytes;
    ++block;
  }
}

absl::StatusOr<std::string> SaveBlob::Header() const {
  return storage::EncodeHeader(Entries(), result_.header_bytes);
}

SavedBlob SaveBlob::TakeResult(const std::string& header) {
  result_.header_digest = storage::DigestOf(header).ToBytes();
  return std::move(result_);
}

}  // namespace keepstep::daemon
