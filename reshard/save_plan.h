// SavePlan: who writes which box, once per layout, as a pure value. Addresses, files and streams are bound
// later.
//
//   1. Every tensor is declared alike (dtype, shape, component) wherever it is declared.
//   2. Declared replicas are complete: each rank of the set holds the same boxes and declares the same set.
//   3. With one copy of each replica, the boxes tile the global shape: no hole, no element twice. So a
//      replica that was not declared is an error, never a guess.
//   4. Each box is written by one rank: its holder; for replicas by Worst-Fit decreasing on bytes over the
//      set, starting from the bytes that each rank must write anyway, so that all writers end together; for
//      module buffers by the lowest rank of the set. The same input gives the same plan on every node.

#ifndef KEEPSTEP_RESHARD_SAVE_PLAN_H_
#define KEEPSTEP_RESHARD_SAVE_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "reshard/tensor.h"

namespace keepstep::reshard {

inline constexpr size_t kMaxRanks = 1 << 20;

// One box on its way to one extent. `shard` and `box` are indices into the rank's RankShards.
struct WriteItem {
  int32_t rank = 0;
  uint32_t shard = 0;
  uint32_t box = 0;
  int64_t size_bytes = 0;
  // The rank's other tensors with this very memory (tied weights): their box of the same index is the same
  // one.
  std::vector<uint32_t> alias_shards;
};

// The items of one blob, in the order of its bytes: by group, then as registered. Offsets follow by adding up
// sizes.
struct BlobPlan {
  int32_t rank = 0;
  Component component = Component::kModel;
  std::vector<WriteItem> items;
  int64_t size_bytes = 0;
};

// One replicated box as each of its holders has it, in the order of ranks: a layout's first save compares a
// sample.
struct ReplicaSet {
  std::vector<WriteItem> items;
  int32_t writer_rank = 0;
};

struct SavePlan {
  std::vector<BlobPlan> blobs;       // by rank, then component; none is empty
  std::vector<ReplicaSet> replicas;  // without module buffers, which differ by nature
  std::string fingerprint;           // LayoutFingerprint of the input
};

// Needs the shards of all ranks, in any order. Every message names the tensor and the ranks.
// INVALID_ARGUMENT: bad shards, a rank given twice, a tensor twice in one rank, a replica that was not
// declared by both. FAILED_PRECONDITION: dtype, shape or component that differ, a declared replica that is
// missing or has other boxes, holes (a bounded number listed).
absl::StatusOr<SavePlan> MakeSavePlan(absl::Span<const RankShards> ranks);

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_SAVE_PLAN_H_
