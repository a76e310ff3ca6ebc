#include "reshard/save_plan.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "reshard/alias.h"
#include "reshard/fingerprint.h"
#include "reshard/holders.h"

namespace keepstep::reshard {
namespace {

// Which names need not be stored because another name stands for their memory, on every rank that holds them.
// Where ranks disagree (tied on one, separate on another), each name is stored for itself.
class Aliases {
 public:
  explicit Aliases(absl::Span<const RankShards* const> ranks) : ranks_(ranks) {
    absl::flat_hash_set<absl::string_view> untied;
    for (const RankShards* rank : ranks) {
      stands_for_.push_back(AliasesOf(*rank));
      for (uint32_t s = 0; s < rank->shards.size(); ++s) {
        const TensorShard& shard = rank->shards[s];
        if (!HasElements(shard)) continue;
        const absl::string_view standing = rank->shards[stands_for_.back()[s]].meta.fqn;
        const auto [at, inserted] = tied_.try_emplace(shard.meta.fqn, standing);
        if (standing == shard.meta.fqn || at->second != standing) untied.insert(shard.meta.fqn);
      }
    }
    for (const absl::string_view name : untied) tied_.erase(name);
    members_.resize(ranks.size());
    for (uint32_t r = 0; r < ranks.size(); ++r) {
      for (uint32_t s = 0; s < ranks[r]->shards.size(); ++s) {
        if (IsTied(r, s)) members_[r][stands_for_[r][s]].push_back(s);
      }
    }
  }

  bool IsTied(uint32_t rank_index, uint32_t shard) const {
    const TensorShard& tensor = ranks_[rank_index]->shards[shard];
    return HasElements(tensor) && tied_.contains(tensor.meta.fqn);
  }

  std::vector<uint32_t> MembersOf(uint32_t rank_index, uint32_t shard) const {
    const auto at = members_[rank_index].find(shard);
    return at == members_[rank_index].end() ? std::vector<uint32_t>() : at->second;
  }

 private:
  const absl::Span<const RankShards* const> ranks_;
  std::vector<std::vector<uint32_t>> stands_for_;
  absl::flat_hash_map<absl::string_view, absl::string_view> tied_;  // name → the name that stands for it
  std::vector<absl::flat_hash_map<uint32_t, std::vector<uint32_t>>>
      members_;  // per rank: shard → the shards tied to it
};

class SavePlanner {
 public:
  explicit SavePlanner(absl::Span<const RankShards* const> ranks)
      : ranks_(ranks), aliases_(ranks), written_bytes_(ranks.size(), 0) {}

  SavePlan Plan(absl::Span<const HeldBox> held) {
    std::vector<const HeldBox*> shared;
    for (const HeldBox& box : held) {
      const BoxHolder& lowest = box.holders[0];
      if (aliases_.IsTied(lowest.rank_index, lowest.shard)) continue;
      if (box.holders.size() == 1 || ShardOf(lowest).module_buffer) {
        Write(box, lowest);
      } else {
        shared.push_back(&box);
      }
    }
    AssignShared(std::move(shared));
    for (auto& [key, items] : items_) AddBlob(std::get<0>(key), std::get<1>(key), std::move(items));
    return std::move(plan_);
  }

 private:
  const TensorShard& ShardOf(const BoxHolder& holder) const {
    return ranks_[holder.rank_index]->shards[holder.shard];
  }

  WriteItem ItemOf(const BoxHolder& holder, int64_t size_bytes) const {
    return WriteItem{ranks_[holder.rank_index]->rank, holder.shard, holder.box, size_bytes, {}};
  }

  void Write(const HeldBox& box, const BoxHolder& writer) {
    WriteItem item = ItemOf(writer, box.size_bytes);
    item.alias_shards = aliases_.MembersOf(writer.rank_index, writer.shard);
    written_bytes_[writer.rank_index] += box.size_bytes;
    items_[{writer.rank_index, ShardOf(writer).meta.component}].push_back(std::move(item));
  }

  // Worst-Fit decreasing: the largest box first, each to the rank that has the least to write, the lowest of
  // equals.
  void AssignShared(std::vector<const HeldBox*> shared) {
    std::vector<const HeldBox*> by_size = shared;
    std::stable_sort(by_size.begin(), by_size.end(),
                     [](const HeldBox* a, const HeldBox* b) { return a->size_bytes > b->size_bytes; });
    absl::flat_hash_map<const HeldBox*, int32_t> writer_ranks;
    for (const HeldBox* box : by_size) {
      const BoxHolder& writer = *std::min_element(
          box->holders.begin(), box->holders.end(), [this](const BoxHolder& a, const BoxHolder& b) {
            return written_bytes_[a.rank_index] < written_bytes_[b.rank_index];
          });
      writer_ranks[box] = ranks_[writer.rank_index]->rank;
      Write(*box, writer);
    }
    for (const HeldBox* box : shared) {
      ReplicaSet set;
      set.writer_rank = writer_ranks[box];
      for (const BoxHolder& holder : box->holders) set.items.push_back(ItemOf(holder, box->size_bytes));
      plan_.replicas.push_back(std::move(set));
    }
  }

  void AddBlob(uint32_t rank_index, Component component, std::vector<WriteItem> items) {
    const RankShards& rank = *ranks_[rank_index];
    std::sort(items.begin(), items.end(), [&](const WriteItem& a, const WriteItem& b) {
      return std::tuple(rank.shards[a.shard].group, a.shard, a.box) <
             std::tuple(rank.shards[b.shard].group, b.shard, b.box);
    });
    BlobPlan blob{rank.rank, component, std::move(items), 0};
    for (const WriteItem& item : blob.items) blob.size_bytes += item.size_bytes;
    plan_.blobs.push_back(std::move(blob));
  }

  const absl::Span<const RankShards* const> ranks_;
  const Aliases aliases_;
  std::vector<int64_t> written_bytes_;
  std::map<std::tuple<uint32_t, Component>, std::vector<WriteItem>> items_;
  SavePlan plan_;
};

}  // namespace

absl::StatusOr<SavePlan> MakeSavePlan(absl::Span<const RankShards> ranks) {
  if (ranks.size() > kMaxRanks) {
    return absl::InvalidArgumentError(absl::StrCat(ranks.size(), " ranks; at most ", kMaxRanks));
  }
  std::vector<const RankShards*> sorted;
  for (const RankShards& rank : ranks) sorted.push_back(&rank);
  std::sort(sorted.begin(), sorted.end(),
            [](const RankShards* a, const RankShards* b) { return a->rank < b->rank; });
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (sorted[i]->rank < 0 || (i > 0 && sorted[i]->rank == sorted[i - 1]->rank)) {
      return absl::InvalidArgumentError(
          absl::StrCat("rank ", sorted[i]->rank, " is negative or given twice"));
    }
  }
  absl::StatusOr<std::vector<HeldBox>> held = FindHolders(sorted);
  if (!held.ok()) return held.status();
  SavePlan plan = SavePlanner(sorted).Plan(*held);
  plan.fingerprint = LayoutFingerprint(ranks);
  return plan;
}

}  // namespace keepstep::reshard
