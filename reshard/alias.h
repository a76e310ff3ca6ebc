// Aliases: tensors of one rank that are the same memory under several names (tied weights). They are stored
// once.

#ifndef KEEPSTEP_RESHARD_ALIAS_H_
#define KEEPSTEP_RESHARD_ALIAS_H_

#include <cstdint>
#include <vector>

#include "reshard/tensor.h"

namespace keepstep::reshard {

// For each shard the index of the one that stands for its memory: the smallest name among the shards that
// agree in all but the name (buffer, boxes, offsets, strides, dtype, shape, component, group, replicas).
// Itself when it shares with none. By name and not by order, so that ranks that register in another order
// agree. Shards without elements share nothing.
std::vector<uint32_t> AliasesOf(const RankShards& rank);

// Whether any box of the shard has elements.
bool HasElements(const TensorShard& shard);

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_ALIAS_H_
