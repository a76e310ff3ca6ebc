#include "daemon/chunk_grid.h"

#include <algorithm>

#include "reshard/check.h"
#include "storage/blob_store.h"
#include "storage/digest.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kAlign = storage::kDirectAlignment;

}  // namespace

int64_t ImageBegin(const Chunk& chunk) { return chunk.begin / kAlign * kAlign; }

int64_t ImageEnd(const Chunk& chunk) { return (chunk.end + kAlign - 1) / kAlign * kAlign; }

int64_t MinChunkBufferBytes() { return 2 * storage::kBlockBytes + 2 * kAlign; }

std::vector<Chunk> MakeChunks(int64_t data_begin, absl::Span<const int64_t> extent_sizes_bytes,
                              int64_t buffer_bytes) {
  KEEPSTEP_CHECK(data_begin % kAlign == 0 && buffer_bytes >= MinChunkBufferBytes(), "a grid without room");
  std::vector<Chunk> chunks;
  int64_t at = data_begin;
  for (uint32_t extent = 0; extent < extent_sizes_bytes.size(); ++extent) {
    const int64_t blocks = storage::BlockCount(extent_sizes_bytes[extent]);
    const int64_t extent_begin = at;
    const int64_t extent_end = at + extent_sizes_bytes[extent];
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t block_end = std::min(extent_begin + (block + 1) * storage::kBlockBytes, extent_end);
      Chunk grown = chunks.empty() ? Chunk{} : chunks.back();
      grown.end = block_end;
      if (chunks.empty() || ImageEnd(grown) - ImageBegin(grown) > buffer_bytes) {
        chunks.push_back({at, block_end, extent, block, 1});
      } else {
        chunks.back().end = block_end;
        ++chunks.back().block_count;
      }
      at = block_end;
    }
  }
  return chunks;
}

}  // namespace keepstep::daemon
