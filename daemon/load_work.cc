#include "daemon/load_work.h"

#include <algorithm>
#include <utility>

#include "absl/container/btree_map.h"
#include "reshard/dtype.h"
#include "reshard/flat.h"
#include "reshard/strided.h"
#include "storage/digest.h"

namespace keepstep::daemon {
namespace {

using WorkMap = absl::btree_map<std::pair<uint32_t, uint32_t>, ChunkWork>;

// Marks the blocks that hold a byte of `region`.
void MarkBlocks(const StoredBlob& blob, const Chunk& chunk, const StoredExtent& extent,
                const reshard::Box& stored, const reshard::Box& region, int64_t item_size_bytes,
                std::vector<bool>& needed) {
  const int64_t first_in_blob = blob.first_blocks[chunk.first_extent] + chunk.first_block;
  const int64_t base =
      blob.first_blocks[extent.place] - first_in_blob;  // of the extent's block 0; may be negative
  if (extent.size_bytes <= storage::kBlockBytes) {
    needed[base] = true;
    return;
  }
  const reshard::LocalBox packed = reshard::RowMajorLayout(stored, item_size_bytes);
  const reshard::LocalBox anywhere = reshard::RowMajorLayout(region, item_size_bytes);
  reshard::ForEachRun(region, packed, anywhere, item_size_bytes,
                      [&](int64_t offset, int64_t, int64_t size_bytes) {
                        const int64_t last = (offset + size_bytes - 1) / storage::kBlockBytes;
                        for (int64_t block = offset / storage::kBlockBytes; block <= last; ++block)
                          needed[base + block] = true;
                      });
}

void AddRegion(const StoredCheckpoint& from, const reshard::ReadItem& item, reshard::Box region,
               uint32_t chunk, int64_t item_size_bytes, WorkMap& work) {
  const StoredExtent& extent = from.extent(item.extent);
  const StoredBlob& blob = from.blobs()[extent.blob];
  ChunkWork& mine = work[{extent.blob, chunk}];
  if (mine.needed.empty()) {
    mine.blob = extent.blob;
    mine.chunk = chunk;
    mine.needed.resize(blob.chunks[chunk].block_count);
  }
  MarkBlocks(blob, blob.chunks[chunk], extent, *item.stored, region, item_size_bytes, mine.needed);
  mine.deliveries.push_back({item.shard, item.box, item.extent, item.stored, std::move(region)});
}

void AddItem(const StoredCheckpoint& from, const reshard::ReadItem& item, int64_t item_size_bytes,
             WorkMap& work) {
  if (reshard::IsEmpty(item.region)) return;
  const StoredExtent& extent = from.extent(item.extent);
  const std::vector<Chunk>& chunks = from.blobs()[extent.blob].chunks;
  const int64_t extent_end = extent.offset_bytes + extent.size_bytes;
  const auto after = std::upper_bound(chunks.begin(), chunks.end(), extent.offset_bytes,
                                      [](int64_t at, const Chunk& chunk) { return at < chunk.begin; });
  for (size_t i = (after - chunks.begin()) - 1; i < chunks.size() && chunks[i].begin < extent_end; ++i) {
    const auto chunk = static_cast<uint32_t>(i);
    const int64_t begin = std::max(chunks[i].begin, extent.offset_bytes) - extent.offset_bytes;
    const int64_t end = std::min(chunks[i].end, extent_end) - extent.offset_bytes;
    if (begin == 0 && end == extent.size_bytes) {
      AddRegion(from, item, item.region, chunk, item_size_bytes, work);
      return;
    }
    // Blocks are cut at multiples of every element size, so these divide.
    for (const reshard::Box& part :
         reshard::DecomposeFlatRange(*item.stored, begin / item_size_bytes, end / item_size_bytes)) {
      if (std::optional<reshard::Box> region = reshard::Intersect(part, item.region))
        AddRegion(from, item, *std::move(region), chunk, item_size_bytes, work);
    }
  }
}

}  // namespace

std::vector<ChunkWork> SplitByChunk(const StoredCheckpoint& from, const reshard::LoadPlan& plan,
                                    absl::Span<const reshard::TensorShard> wanted) {
  WorkMap work;
  for (const reshard::ReadItem& item : plan.items)
    AddItem(from, item, reshard::SizeBytes(wanted[item.shard].meta.dtype), work);
  std::vector<ChunkWork> sorted;
  sorted.reserve(work.size());
  for (auto& [place, chunk] : work) sorted.push_back(std::move(chunk));
  return sorted;
}

}  // namespace keepstep::daemon
