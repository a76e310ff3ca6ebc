// Turns a LoadPlan into work by chunk: which blocks are needed, and what is delivered from them. Pure.

#ifndef KEEPSTEP_DAEMON_LOAD_WORK_H_
#define KEEPSTEP_DAEMON_LOAD_WORK_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "daemon/stored_checkpoint.h"
#include "reshard/load_plan.h"
#include "reshard/tensor.h"

namespace keepstep::daemon {

// A region that lies wholly in one chunk, as part of the extent that holds the packed box `stored`.
struct Delivery {
  uint32_t shard = 0;
  uint32_t box = 0;
  uint32_t extent = 0;
  const reshard::Box* stored = nullptr;  // in the checkpoint
  reshard::Box region;
};

struct ChunkWork {
  uint32_t blob = 0;
  uint32_t chunk = 0;
  std::vector<bool> needed;  // by block of the chunk
  std::vector<Delivery> deliveries;
};

// In the order of blobs and offsets. Deliveries point into `plan`. Regions without elements vanish.
std::vector<ChunkWork> SplitByChunk(const StoredCheckpoint& from, const reshard::LoadPlan& plan,
                                    absl::Span<const reshard::TensorShard> wanted);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOAD_WORK_H_
