// Moves one rank's share of an attempt from the trainer's memory to durable blobs.
//
//   1. The rank's blobs are cut into chunks (chunk_grid.h), ordered by the first group that they hold.
//   2. For each chunk, as a staging buffer comes free: copy on a worker (runs of many small tensors in one
//      vectored read), then write (asynchronous) and digest (on a worker; a blob's chunks in order) side by
//      side. All stages of all blobs and ranks overlap; buffers bound them. Where the trainer takes part in the copy, or
//      its GPU has work to do before, a few chunks at most hold a buffer ahead of theirs.
//   3. A group's last copied byte releases it, before anything of it is written; of a group with GPU memory, once
//      samples show that it is as it was before the first byte (save_samples.h).
//   4. The header's space is reserved; it is written last. Finish flushes.
//   5. A buffer leaves when it is written and digested: to the block cache, to warm a restart's load. So a
//      failed write or flush fails the save.
//
// Callbacks come in this order, each at most once: group_copied (each group once, any order), copied, then
// one of flushed and failed, then ended, always, after which no buffer, file or trainer memory is in use.
// Cancel leads straight to ended. They run on threads of the pipeline, never within a call of its user;
// they may block briefly and must not destroy it.

#ifndef KEEPSTEP_DAEMON_SAVE_PIPELINE_H_
#define KEEPSTEP_DAEMON_SAVE_PIPELINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "daemon/data_plane.h"
#include "daemon/memory_port.h"
#include "daemon/save_result.h"
#include "reshard/save_plan.h"
#include "reshard/tensor.h"
#include "storage/blob_path.h"
#include "storage/blob_store.h"

namespace keepstep::daemon {

struct ExtraSource {
  std::string name;
  std::vector<int64_t> coordinate;
  bool splittable = false;
  std::vector<std::string> items;
};

struct SaveSpec {
  std::shared_ptr<storage::BlobStore> store;
  storage::BlobPath directory = storage::BlobPath::Root();  // of the attempt
  std::string cache_prefix;  // the job's identity: keeps its paths apart from other jobs' in the cache
  int32_t world_size = 1;
  std::shared_ptr<const reshard::SavePlan> plan;  // this rank's blobs are taken from it
  std::shared_ptr<const reshard::RankShards> shards;
  std::vector<uint64_t> buffer_addresses;  // by TensorShard::buffer; shards were checked against sizes
  std::vector<bool> on_gpu;                // likewise; empty: none is
  std::shared_ptr<MemoryPort> port;
  std::vector<ExtraSource> extras;
};

struct SaveCallbacks {
  std::function<void(uint32_t group)> group_copied;  // every group of `shards`, without bytes too
  std::function<void()> copied;
  std::function<void(SavedShare)> flushed;
  std::function<void(std::string stage, absl::Status)> failed;  // stage: plan, copy, write, flush
  std::function<void()> ended;
  std::function<void(int64_t copied_bytes)> progress;  // since the start; may be empty
  std::function<void(int64_t bytes)> written;          // so many more; any thread; may be empty
};

class SavePipeline {
 public:
  virtual ~SavePipeline() = default;  // cancels, then waits for `ended`

  // Stops promptly. Thread-safe; does not wait, and does nothing when it has ended.
  virtual void Cancel(absl::Status why) = 0;
};

// Starts at once; never fails here: problems come as `failed`. `plane` outlives the pipeline.
std::unique_ptr<SavePipeline> StartSave(DataPlane& plane, SaveSpec spec, SaveCallbacks callbacks);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_SAVE_PIPELINE_H_
