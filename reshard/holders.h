// Holders: which ranks hold each box of each tensor, with everything that makes a declaration false found and
// refused. The first three steps of a save plan (save_plan.h).

#ifndef KEEPSTEP_RESHARD_HOLDERS_H_
#define KEEPSTEP_RESHARD_HOLDERS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "reshard/tensor.h"

namespace keepstep::reshard {

// Box `box` of shard `shard` in ranks[rank_index].
struct BoxHolder {
  uint32_t rank_index = 0;
  uint32_t shard = 0;
  uint32_t box = 0;
};

// A box that must be stored once, and who has it: one holder, or all of a replica set in the order of ranks.
struct HeldBox {
  std::vector<BoxHolder> holders;
  int64_t size_bytes = 0;
};

// Tensors in the order in which they are first declared, the boxes of each in the order of ranks, then of
// their origins. Empty boxes are left out, but a tensor without elements has one held box. Errors: those of
// MakeSavePlan. REQUIRES: `ranks` is sorted by rank, no rank twice.
absl::StatusOr<std::vector<HeldBox>> FindHolders(absl::Span<const RankShards* const> ranks);

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_HOLDERS_H_
