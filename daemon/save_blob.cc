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
  blob->name_ = storage::BlobName(component, spec.shards->rank, spec.world_size);
  if (plan != nullptr) blob->AddTensors(*plan);
  blob->with_extras_ = with_extras;
  if (with_extras) blob->AddExtras();
  if (blob->items_.size() > storage::kMaxHeaderEntries)
    return absl::ResourceExhaustedError(absl::StrCat(blob->name_, ": more entries than a header may have"));
  blob->PlaceItems(buffer_bytes);
  if (blob->header_bytes_ > storage::kMaxHeaderBytes)
    return absl::ResourceExhaustedError(absl::StrCat(blob->name_, ": a header beyond the format's limit"));
  return blob;
}

void SaveBlob::AddTensors(const reshard::BlobPlan& plan) {
  absl::flat_hash_map<uint32_t, uint32_t> boxes_seen;  // by shard
  items_.reserve(plan.items.size());
  for (const reshard::WriteItem& write : plan.items) {
    const reshard::TensorShard& shard = spec_.shards->shards[write.shard];
    Item item;
    item.size_bytes = write.size_bytes;
    item.group = shard.group;
    item.source = {&shard.boxes[write.box], spec_.buffer_addresses[shard.buffer],
                   reshard::SizeBytes(shard.meta.dtype)};
    item.shard = &shard;
    item.alias_shards = &write.alias_shards;
    item.entry = storage::EntryName(shard.meta.fqn, boxes_seen[write.shard]++);
    items_.push_back(std::move(item));
  }
}

void SaveBlob::AddExtras() {
  const uint32_t last_group = items_.empty() ? 0 : items_.back().group;
  for (const ExtraSource& extra : spec_.extras) {
    for (uint32_t i = 0; i < extra.items.size(); ++i) {
      Item item;
      item.size_bytes = static_cast<int64_t>(extra.items[i].size());
      item.group = last_group;
      item.bytes = extra.items[i];
      item.entry = storage::EntryName(absl::StrCat(kExtraEntryPrefix, extra.name), i);
      items_.push_back(std::move(item));
    }
  }
}

std::vector<storage::HeaderEntry> SaveBlob::Entries() const {
  std::vector<storage::HeaderEntry> entries;
  entries.reserve(items_.size());
  int64_t at = 0;
  for (const Item& item : items_) {
    storage::HeaderEntry entry{item.entry, reshard::DType::kU8, {}, {}, at, at + item.size_bytes};
    if (item.shard != nullptr) {
      entry.dtype = item.shard->meta.dtype;
      entry.box = item.source.local->box;
      entry.global_shape = item.shard->meta.shape;
    } else {
      entry.box = reshard::WholeBox({item.size_bytes});
      entry.global_shape = {item.size_bytes};
    }
    at += item.size_bytes;
    entries.push_back(std::move(entry));
  }
  return entries;
}

void SaveBlob::PlaceItems(int64_t buffer_bytes) {
  header_bytes_ = storage::HeaderUpperBound(Entries());
  std::vector<int64_t> sizes_bytes;
  int64_t at = header_bytes_;
  for (Item& item : items_) {
    item.offset_bytes = at;
    at += item.size_bytes;
    item.block_digests.resize(storage::BlockCount(item.size_bytes) * storage::kDigestBytes);
    sizes_bytes.push_back(item.size_bytes);
  }
  size_bytes_ = at;
  chunks_ = MakeChunks(header_bytes_, sizes_bytes, buffer_bytes);
  carries_.resize(chunks_.size());
}

int64_t SaveBlob::WriteBegin(size_t chunk) const {
  return chunk == 0 ? header_bytes_ : std::min(ImageEnd(chunks_[chunk - 1]), size_bytes_);
}

size_t SaveBlob::FirstItemAt(int64_t offset_bytes) const {
  const auto after =
      std::upper_bound(items_.begin(), items_.end(), offset_bytes,
                       [](int64_t at, const Item& item) { return at < item.offset_bytes + item.size_bytes; });
  return after - items_.begin();
}

void SaveBlob::ForEachGroup(int64_t begin_bytes, int64_t end_bytes,
                            const std::function<void(uint32_t, int64_t)>& fn) const {
  for (size_t i = FirstItemAt(begin_bytes); i < items_.size() && items_[i].offset_bytes < end_bytes; ++i) {
    const Item& item = items_[i];
    if (item.shard == nullptr || item.size_bytes == 0) continue;
    fn(item.group,
       std::min(item.offset_bytes + item.size_bytes, end_bytes) - std::max(item.offset_bytes, begin_bytes));
  }
}

absl::Status SaveBlob::Copy(size_t chunk, std::byte* image, MemoryPort& port, Cancellation& cancel) {
  const int64_t image_begin = ImageBegin(chunks_[chunk]);
  const int64_t begin = WriteBegin(chunk);
  const int64_t end = WriteBegin(chunk + 1);
  BoxMover mover(port, Direction::kFromTrainer, cancel);
  for (size_t i = FirstItemAt(begin); i < items_.size() && items_[i].offset_bytes < end; ++i) {
    const Item& item = items_[i];
    const int64_t from = std::max(item.offset_bytes, begin);
    const int64_t to = std::min(item.offset_bytes + item.size_bytes, end);
    std::byte* at = image + (from - image_begin);
    if (item.shard == nullptr) {
      std::memcpy(at, item.bytes.data() + (from - item.offset_bytes), to - from);
      continue;
    }
    absl::Status status = mover.MoveBytes(from - item.offset_bytes, to - item.offset_bytes, item.source, at);
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
  size_t extent = chunk.first_extent;
  int64_t block = chunk.first_block;
  for (uint32_t i = 0; i < chunk.block_count; ++i) {
    while (block >= storage::BlockCount(items_[extent].size_bytes)) {
      ++extent;
      block = 0;
    }
    Item& item = items_[extent];
    const int64_t size_bytes = std::min(storage::kBlockBytes, item.size_bytes - block * storage::kBlockBytes);
    const storage::Digest128 digest =
        storage::DigestOf(absl::MakeConstSpan(at, static_cast<size_t>(size_bytes)));
    std::memcpy(&item.block_digests[block * storage::kDigestBytes], digest.bytes.data(),
                storage::kDigestBytes);
    at += size_bytes;
    ++block;
  }
}

absl::StatusOr<std::string> SaveBlob::Header() const {
  return storage::EncodeHeader(Entries(), header_bytes_);
}

SavedBlob SaveBlob::TakeResult(const std::string& header) {
  SavedBlob blob{name_, size_bytes_, header_bytes_, storage::DigestOf(header).ToBytes(), {}, {}};
  std::vector<Item> items = std::move(items_);  // go with this: there may be as many as tensors
  size_t index = 0;
  for (; index < items.size() && items[index].shard != nullptr; ++index) {
    Item& item = items[index];
    SavedExtent extent{item.shard->meta,
                       {},
                       item.source.local->box,
                       item.offset_bytes,
                       item.size_bytes,
                       storage::DigestOf(item.block_digests).ToBytes(),
                       std::move(item.block_digests),
                       std::move(item.entry)};
    for (uint32_t alias : *item.alias_shards) extent.aliases.push_back(spec_.shards->shards[alias].meta.fqn);
    blob.extents.push_back(std::move(extent));
  }
  if (!with_extras_) return blob;
  for (const ExtraSource& source : spec_.extras) {
    SavedExtra extra{source.name, source.coordinate, source.splittable, {}};
    for (size_t i = 0; i < source.items.size(); ++i) {
      Item& item = items[index++];
      extra.items.push_back({item.offset_bytes, item.size_bytes,
                             storage::DigestOf(item.block_digests).ToBytes(), std::move(item.block_digests)});
    }
    blob.extras.push_back(std::move(extra));
  }
  return blob;
}

}  // namespace keepstep::daemon
