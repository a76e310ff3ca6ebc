// Reads and verifies what a chunk lacks, into its image in the block cache.
//
//   1. The needed blocks that are absent, and absent blocks in small gaps between them, become reads:
//      neighbours in one, rounded out to kDirectAlignment where that touches no byte of a verified block,
//      for others deliver from those.
//   2. When all reads are in, each block is compared with its digest. One that differs is read once more.

#ifndef KEEPSTEP_DAEMON_CHUNK_FILL_H_
#define KEEPSTEP_DAEMON_CHUNK_FILL_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "daemon/stored_checkpoint.h"
#include "reshard/merge.h"
#include "storage/blob_store.h"

namespace keepstep::daemon {

struct FillPlan {
  std::vector<uint32_t> blocks;           // to verify; ascending
  std::vector<reshard::ByteRange> reads;  // of the blob; may overlap by less than kDirectAlignment
  int64_t read_bytes = 0;                 // of `blocks`
};

// Pure. `needed` and `verified` by block.
FillPlan PlanFill(const StoredBlob& blob, absl::Span<const BlockPlace> blocks,
                  const std::vector<bool>& needed, const std::vector<bool>& verified);

// Verifies `plan.blocks` in the image that begins at `image_begin_bytes` of the blob; returns those that
// are good. Blocks for the second reading of bad ones. `status` becomes DATA_LOSS, naming blob, block and
// tensor, when a needed one stays bad.
std::vector<uint32_t> VerifyFill(const StoredCheckpoint& from, const StoredBlob& blob,
                                 absl::Span<const BlockPlace> blocks, const std::vector<bool>& needed,
                                 const FillPlan& plan, storage::BlobReader& reader, std::byte* image,
                                 int64_t image_begin_bytes, absl::Status* status);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_CHUNK_FILL_H_
