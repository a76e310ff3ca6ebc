#include "reshard/alias.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace keepstep::reshard {
namespace {

// A shard as a key of everything but its name.
struct Memory {
  const TensorShard* shard;

  friend bool operator==(const Memory& a, const Memory& b) {
    const TensorShard& x = *a.shard;
    const TensorShard& y = *b.shard;
    return x.buffer == y.buffer && x.meta.dtype == y.meta.dtype && x.meta.shape == y.meta.shape &&
           x.meta.component == y.meta.component && x.group == y.group && x.module_buffer == y.module_buffer &&
           x.replica_ranks == y.replica_ranks &&
           std::equal(x.boxes.begin(), x.boxes.end(), y.boxes.begin(), y.boxes.end(),
                      [](const LocalBox& p, const LocalBox& q) {
                        return p.box == q.box && p.offset_bytes == q.offset_bytes &&
                               p.strides_bytes == q.strides_bytes;
                      });
  }
  template <typename H>
  friend H AbslHashValue(H h, const Memory& memory) {
    const TensorShard& shard = *memory.shard;
    h = H::combine(std::move(h), shard.buffer, shard.meta.dtype, shard.meta.shape, shard.group,
                   shard.boxes.size());
    for (const LocalBox& local : shard.boxes) h = H::combine(std::move(h), local.box, local.offset_bytes);
    return h;
  }
};

}  // namespace

bool HasElements(const TensorShard& shard) {
  return std::any_of(shard.boxes.begin(), shard.boxes.end(),
                     [](const LocalBox& local) { return !IsEmpty(local.box); });
}

std::vector<uint32_t> AliasesOf(const RankShards& rank) {
  absl::flat_hash_map<Memory, uint32_t> smallest_name;
  for (uint32_t i = 0; i < rank.shards.size(); ++i) {
    if (!HasElements(rank.shards[i])) continue;
    const auto [at, inserted] = smallest_name.try_emplace(Memory{&rank.shards[i]}, i);
    if (!inserted && rank.shards[i].meta.fqn < rank.shards[at->second].meta.fqn) at->second = i;
  }
  std::vector<uint32_t> stands_for(rank.shards.size());
  for (uint32_t i = 0; i < rank.shards.size(); ++i) {
    stands_for[i] = HasElements(rank.shards[i]) ? smallest_name.at(Memory{&rank.shards[i]}) : i;
  }
  return stands_for;
}

}  // namespace keepstep::reshard
