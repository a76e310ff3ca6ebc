#include "reshard/holders.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "reshard/box_index.h"
#include "reshard/coverage.h"
#include "reshard/dtype.h"

namespace keepstep::reshard {
namespace {

// One rank's word on one tensor.
struct Declaration {
  int32_t rank = 0;
  uint32_t rank_index = 0;
  uint32_t shard_index = 0;
  const TensorShard* shard = nullptr;
  std::vector<uint32_t>
      boxes;  // indices of those with elements, by origin: equal lists of boxes compare equal

  const Box& box(size_t i) const { return shard->boxes[boxes[i]].box; }
  bool replicated() const { return shard->replica_ranks.size() > 1; }
  // Of each replica set, the lowest rank speaks.
  bool leads() const { return !replicated() || shard->replica_ranks.front() == rank; }
};

using Declarations = std::vector<Declaration>;  // of one tensor, by rank

std::string RankList(const std::vector<int32_t>& ranks) {
  constexpr size_t kMaxListed = 16;
  const size_t listed = std::min(ranks.size(), kMaxListed);
  return absl::StrCat("[", absl::StrJoin(ranks.begin(), ranks.begin() + static_cast<ptrdiff_t>(listed), ", "),
                      listed < ranks.size() ? ", …]" : "]");
}

std::string Between(const Declaration& a, const Declaration& b) {
  return absl::StrCat("tensor ", a.shard->meta.fqn, ", ranks ", a.rank, " and ", b.rank, ": ");
}

bool SameBoxes(const Declaration& a, const Declaration& b) {
  if (a.boxes.size() != b.boxes.size()) return false;
  for (size_t i = 0; i < a.boxes.size(); ++i) {
    if (a.box(i) != b.box(i)) return false;
  }
  return true;
}

const Declaration* Find(const Declarations& declarations, int32_t rank) {
  const auto at = std::lower_bound(declarations.begin(), declarations.end(), rank,
                                   [](const Declaration& d, int32_t wanted) { return d.rank < wanted; });
  return at != declarations.end() && at->rank == rank ? &*at : nullptr;
}

absl::Status Undeclared(const Declaration& a, const Declaration& b, const Box& box) {
  if (a.rank > b.rank) return Undeclared(b, a, box);
  return absl::InvalidArgumentError(
      absl::StrCat(Between(a, b), "undeclared replica: both hold ", ToString(box),
                   ", but they do not both declare the same replica set (", RankList(a.shard->replica_ranks),
                   " and ", RankList(b.shard->replica_ranks), ")"));
}

absl::Status CheckOwnSet(const Declaration& declaration) {
  const std::vector<int32_t>& set = declaration.shard->replica_ranks;
  const bool ascending = std::adjacent_find(set.begin(), set.end(), std::greater_equal<>()) == set.end();
  if (set.empty() || (ascending && std::binary_search(set.begin(), set.end(), declaration.rank))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("tensor ", declaration.shard->meta.fqn, ", rank ",
                                                 declaration.rank, ": its replica set ", RankList(set),
                                                 " is not ascending or lacks the rank itself"));
}

absl::Status CheckSameTensor(const Declaration& a, const Declaration& b) {
  const TensorMeta& x = a.shard->meta;
  const TensorMeta& y = b.shard->meta;
  std::string differs;
  if (x.dtype != y.dtype) differs = absl::StrCat("dtype ", DTypeName(x.dtype), " and ", DTypeName(y.dtype));
  if (x.shape != y.shape)
    differs = absl::StrCat("global shape ", ToString(x.shape), " and ", ToString(y.shape));
  if (x.component != y.component) {
    differs = absl::StrCat("component ", ComponentName(x.component), " and ", ComponentName(y.component));
  }
  if (differs.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(Between(a, b), "declared with ", differs));
}

// Two members of a declared set, seen from `one`.
absl::Status CheckReplica(const Declaration& one, const Declaration* other, int32_t other_rank) {
  if (other == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("tensor ", one.shard->meta.fqn, ": rank ", one.rank, " declares it replicated over ",
                     RankList(one.shard->replica_ranks), ", but rank ", other_rank, " does not hold it"));
  }
  const bool same_boxes = SameBoxes(one, *other);
  if (one.shard->replica_ranks != other->shard->replica_ranks) {
    if (same_boxes && !one.boxes.empty()) return Undeclared(one, *other, one.box(0));
    return absl::FailedPreconditionError(absl::StrCat(
        Between(one, *other), "declared with different replica sets: ", RankList(one.shard->replica_ranks),
        " and ", RankList(other->shard->replica_ranks)));
  }
  if (!same_boxes) {
    return absl::FailedPreconditionError(
        absl::StrCat(Between(one, *other), "declared replicas, but they hold different boxes"));
  }
  if (one.shard->module_buffer != other->shard->module_buffer) {
    return absl::FailedPreconditionError(
        absl::StrCat(Between(one, *other), "a module buffer on one of them only"));
  }
  return absl::OkStatus();
}

// The leader looks at every member; a member looks at its leader, or a set without a leader would go unseen.
absl::Status CheckReplicas(const Declarations& declarations) {
  for (const Declaration& declaration : declarations) {
    if (!declaration.replicated()) continue;
    const std::vector<int32_t>& set = declaration.shard->replica_ranks;
    const size_t looks_at = declaration.leads() ? set.size() : 1;
    for (size_t i = 0; i < looks_at; ++i) {
      absl::Status status = CheckReplica(declaration, Find(declarations, set[i]), set[i]);
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

// With one copy of each replica set, the boxes must tile the tensor.
absl::Status CheckTiling(const Declarations& declarations) {
  const TensorMeta& meta = declarations[0].shard->meta;
  std::vector<Box> boxes;
  std::vector<const Declaration*> owners;
  int64_t missing = NumElements(meta.shape);
  for (const Declaration& declaration : declarations) {
    if (!declaration.leads()) continue;
    for (size_t i = 0; i < declaration.boxes.size(); ++i) {
      boxes.push_back(declaration.box(i));
      owners.push_back(&declaration);
    }
  }
  if (const auto overlap = FindOverlap(boxes); overlap.has_value()) {
    const auto [a, b] = *overlap;
    if (owners[a] != owners[b]) return Undeclared(*owners[a], *owners[b], *Intersect(boxes[a], boxes[b]));
    return absl::InvalidArgumentError(absl::StrCat("tensor ", meta.fqn, ", rank ", owners[a]->rank,
                                                   ": boxes ", ToString(boxes[a]), " and ",
                                                   ToString(boxes[b]), " overlap"));
  }
  for (const Box& box : boxes) missing -= NumElements(box);
  if (missing == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("tensor ", meta.fqn, ": no rank holds ", missing, " of its ", NumElements(meta.shape),
                   " elements: ", ToString(FindHoles(WholeBox(meta.shape), boxes))));
}

absl::Status Check(const Declarations& declarations) {
  for (size_t i = 0; i < declarations.size(); ++i) {
    if (absl::Status status = CheckOwnSet(declarations[i]); !status.ok()) return status;
    if (i == 0) continue;
    if (declarations[i].rank == declarations[i - 1].rank) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", declarations[i].shard->meta.fqn,
                                                     " is declared twice by rank ", declarations[i].rank));
    }
    if (absl::Status status = CheckSameTensor(declarations[0], declarations[i]); !status.ok()) return status;
  }
  if (absl::Status status = CheckReplicas(declarations); !status.ok()) return status;
  return CheckTiling(declarations);
}

// A tensor without elements: the lowest rank with a box of it stores its name, dtype and shape.
absl::Status AddEmpty(const Declarations& declarations, std::vector<HeldBox>& held) {
  for (const Declaration& declaration : declarations) {
    if (declaration.shard->boxes.empty()) continue;
    held.push_back(HeldBox{{BoxHolder{declaration.rank_index, declaration.shard_index, 0}}, 0});
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("tensor ", declarations[0].shard->meta.fqn,
                   " has no elements, and no rank declares an empty box of it"));
}

void AddBoxes(const Declarations& declarations, std::vector<HeldBox>& held) {
  for (const Declaration& leader : declarations) {
    if (!leader.leads()) continue;
    std::vector<const Declaration*> members = {&leader};
    for (size_t i = 1; i < leader.shard->replica_ranks.size(); ++i) {
      members.push_back(Find(declarations, leader.shard->replica_ranks[i]));
    }
    for (size_t i = 0; i < leader.boxes.size(); ++i) {
      HeldBox box;
      box.size_bytes = NumElements(leader.box(i)) * SizeBytes(leader.shard->meta.dtype);
      for (const Declaration* member : members) {
        box.holders.push_back(BoxHolder{member->rank_index, member->shard_index, member->boxes[i]});
      }
      held.push_back(std::move(box));
    }
  }
}

absl::StatusOr<Declaration> Declare(const RankShards& rank, uint32_t rank_index, uint32_t shard_index) {
  const TensorShard& shard = rank.shards[shard_index];
  Declaration declaration{rank.rank, rank_index, shard_index, &shard, {}};
  absl::Status status = ValidateMeta(shard.meta);
  for (uint32_t i = 0; i < shard.boxes.size() && status.ok(); ++i) {
    status = ValidateBox(shard.boxes[i].box, shard.meta.shape);
    if (status.ok() && !IsEmpty(shard.boxes[i].box)) declaration.boxes.push_back(i);
  }
  if (!status.ok()) {
    return absl::Status(
        status.code(), absl::StrCat("tensor ", shard.meta.fqn, ", rank ", rank.rank, ": ", status.message()));
  }
  std::sort(declaration.boxes.begin(), declaration.boxes.end(),
            [&](uint32_t a, uint32_t b) { return shard.boxes[a].box < shard.boxes[b].box; });
  return declaration;
}

}  // namespace

absl::StatusOr<std::vector<HeldBox>> FindHolders(absl::Span<const RankShards* const> ranks) {
  std::vector<Declarations> tensors;
  absl::flat_hash_map<absl::string_view, size_t> by_name;
  for (uint32_t r = 0; r < ranks.size(); ++r) {
    for (uint32_t s = 0; s < ranks[r]->shards.size(); ++s) {
      absl::StatusOr<Declaration> declaration = Declare(*ranks[r], r, s);
      if (!declaration.ok()) return declaration.status();
      const auto [at, inserted] = by_name.try_emplace(ranks[r]->shards[s].meta.fqn, tensors.size());
      if (inserted) tensors.emplace_back();
      tensors[at->second].push_back(*std::move(declaration));
    }
  }
  std::vector<HeldBox> held;
  for (const Declarations& declarations : tensors) {
    if (absl::Status status = Check(declarations); !status.ok()) return status;
    if (NumElements(declarations[0].shard->meta.shape) == 0) {
      if (absl::Status status = AddEmpty(declarations, held); !status.ok()) return status;
    } else {
      AddBoxes(declarations, held);
    }
  }
  return held;
}

}  // namespace keepstep::reshard
