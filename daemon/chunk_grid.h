// Cuts the data of a blob into chunks: the pieces in which it is written, read, shared between loads and
// kept warm.
//
//   1. The blocks of all extents, in the order of their bytes, tile [data_begin, data_end) without holes.
//   2. A chunk is a run of whole blocks, so each can be verified by itself. Its bytes [begin, end), rounded
//      out to kDirectAlignment, fit one staging buffer: byte `offset` of the file lies at offset -
//      ImageBegin(chunk) in it.
//   3. The grid is a function of extent sizes and buffer size alone: whoever writes or reads a blob finds
//      the same chunks, so the image that a save leaves in memory serves a later load.

#ifndef KEEPSTEP_DAEMON_CHUNK_GRID_H_
#define KEEPSTEP_DAEMON_CHUNK_GRID_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace keepstep::daemon {

struct Chunk {
  int64_t begin = 0;  // in the blob
  int64_t end = 0;
  uint32_t first_extent = 0;  // that of the first block
  int64_t first_block = 0;    // its number within that extent
  uint32_t block_count = 0;
};

// `extent_sizes_bytes` in the order of their bytes; empty extents have no blocks. `data_begin` is a
// multiple of kDirectAlignment; `buffer_bytes` >= MinChunkBufferBytes().
std::vector<Chunk> MakeChunks(int64_t data_begin, absl::Span<const int64_t> extent_sizes_bytes,
                              int64_t buffer_bytes);

// The smallest buffer that MakeChunks takes: two blocks, so that every chunk but the last is longer than one.
int64_t MinChunkBufferBytes();

int64_t ImageBegin(const Chunk& chunk);  // begin, rounded down to kDirectAlignment
int64_t ImageEnd(const Chunk& chunk);    // end, rounded up

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_CHUNK_GRID_H_
