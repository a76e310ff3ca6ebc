// Fills one rank's registered tensors from a checkpoint.
//
//   1. The plan's items become, chunk by chunk (chunk_grid.h), the blocks that are needed and the regions
//      to deliver.
//   2. In the order of blobs and offsets, several chunks at once: pin the chunk in the block cache; blocks
//      that are there are warm; absent ones are read by one load while others of the node wait for it
//      (single flight). Neighbouring blocks are one aligned read into staging.
//   3. Each block is verified before any byte of it is delivered; a bad one is read once more, then
//      DATA_LOSS.
//   4. Strided runs go from staging to the trainer through its port, converted only where the caller asked.

#ifndef KEEPSTEP_DAEMON_LOAD_PIPELINE_H_
#define KEEPSTEP_DAEMON_LOAD_PIPELINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "daemon/data_plane.h"
#include "daemon/memory_port.h"
#include "daemon/stored_checkpoint.h"
#include "reshard/load_plan.h"
#include "reshard/tensor.h"
#include "storage/blob_store.h"

namespace keepstep::daemon {

struct LoadSpec {
  std::shared_ptr<storage::BlobStore> store;
  std::string cache_prefix;  // as SaveSpec
  std::shared_ptr<const StoredCheckpoint> from;
  // Destinations. Their meta.dtype is the stored one; offsets and strides are in bytes of what the trainer
  // holds.
  absl::Span<const reshard::TensorShard> wanted;
  absl::Span<const uint64_t> buffer_addresses;  // by TensorShard::buffer
  // What the trainer holds, one per wanted shard; empty: no conversion. F32 ↔ F64, F16, BF16 and between
  // those.
  absl::Span<const reshard::DType> local_dtypes;
  const reshard::LoadPlan* plan = nullptr;
  std::shared_ptr<MemoryPort> port;
  std::function<void(int64_t delivered_bytes, int64_t total_bytes)> progress;  // any thread; may be empty
};

struct LoadStats {
  int64_t delivered_bytes = 0;  // into the trainer's tensors
  int64_t unique_bytes = 0;     // of the blocks that this load needed
  int64_t read_bytes = 0;       // from storage, by this load
  int64_t warm_bytes = 0;       // of needed blocks in memory already, or read by another load
};

// Blocks until everything is delivered, or failed and nothing is in use any more; the destinations are then
// undefined. Thread-safe; all that `spec` points to stays valid. DATA_LOSS names blob, block and tensor;
// INVALID_ARGUMENT: a conversion that is not supported; statuses of store, port, pool and `cancel`.
absl::StatusOr<LoadStats> RunLoad(DataPlane& plane, const LoadSpec& spec, Cancellation& cancel);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOAD_PIPELINE_H_
