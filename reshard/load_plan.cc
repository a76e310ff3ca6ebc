#include "reshard/load_plan.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "reshard/box_index.h"
#include "reshard/dtype.h"
#include "reshard/names.h"

namespace keepstep::reshard {
namespace {

constexpr size_t kMaxListedTensors = 8;

// Up to so many stored boxes are looked at one after another: an index of them would be one leaf.
constexpr size_t kFewBoxes = 8;

// The boxes of a stored tensor, checked and indexed once however many shards want them.
struct IndexedTensor {
  explicit IndexedTensor(std::vector<Box> stored) : boxes(std::move(stored)), index(boxes) {}

  const std::vector<Box> boxes;
  const BoxIndex index;
};

std::string Listed(const std::vector<std::string>& names, size_t count) {
  return absl::StrCat(absl::StrJoin(names, ", "), count > names.size() ? ", …" : "");
}

absl::Status CheckMeta(const TensorMeta& wanted, const TensorMeta& stored) {
  if (wanted.dtype != stored.dtype) {
    return absl::FailedPreconditionError(absl::StrCat(
        "tensor ", wanted.fqn, " is stored as ", DTypeName(stored.dtype), ", not ", DTypeName(wanted.dtype)));
  }
  if (wanted.shape != stored.shape) {
    return absl::FailedPreconditionError(absl::StrCat("tensor ", wanted.fqn, " is stored with global shape ",
                                                      ToString(stored.shape), ", not ",
                                                      ToString(wanted.shape)));
  }
  return absl::OkStatus();
}

absl::Status ValidateStored(const StoredTensor& stored) {
  for (const StoredBox& piece : stored.boxes) {
    if (absl::Status status = ValidateBox(piece.box, stored.meta.shape); !status.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat("stored tensor ", stored.meta.fqn, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status Overlap(const StoredTensor& stored, size_t a, size_t b) {
  return absl::FailedPreconditionError(
      absl::StrCat("stored tensor ", stored.meta.fqn, ": boxes ", ToString(stored.boxes[a].box), " and ",
                   ToString(stored.boxes[b].box), " overlap"));
}

absl::Status CheckFew(const StoredTensor& stored) {
  if (absl::Status status = ValidateStored(stored); !status.ok()) return status;
  for (size_t b = 1; b < stored.boxes.size(); ++b) {
    for (size_t a = 0; a < b; ++a) {
      if (Intersect(stored.boxes[a].box, stored.boxes[b].box).has_value()) return Overlap(stored, a, b);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<IndexedTensor>> IndexStored(const StoredTensor& stored) {
  if (absl::Status status = ValidateStored(stored); !status.ok()) return status;
  std::vector<Box> boxes;
  boxes.reserve(stored.boxes.size());
  for (const StoredBox& piece : stored.boxes) boxes.push_back(piece.box);
  if (const auto overlap = FindOverlap(boxes); overlap.has_value())
    return Overlap(stored, overlap->first, overlap->second);
  return std::make_unique<IndexedTensor>(std::move(boxes));
}

class LoadPlanner {
 public:
  LoadPlanner(absl::Span<const TensorShard> wanted, const LoadOptions& options)
      : wanted_(wanted), options_(options) {}

  absl::StatusOr<LoadPlan> Plan(absl::FunctionRef<const StoredTensor*(absl::string_view)> lookup) {
    std::vector<const StoredTensor*> stored;
    stored.reserve(wanted_.size());
    size_t boxes = 0;
    for (const TensorShard& shard : wanted_) {
      stored.push_back(lookup(shard.meta.fqn));
      boxes += shard.boxes.size();
    }
    plan_.items.reserve(boxes);
    if (absl::Status status = FindAbsent(stored); !status.ok()) return status;
    for (uint32_t i = 0; i < wanted_.size(); ++i) {
      if (stored[i] == nullptr) continue;
      if (absl::Status status = PlanShard(i, *stored[i]); !status.ok()) return status;
    }
    if (tensors_with_holes_ > 0 && !options_.allow_partial) {
      return absl::FailedPreconditionError(absl::StrCat("missing coverage: the checkpoint lacks parts of ",
                                                        Listed(listed_holes_, tensors_with_holes_)));
    }
    std::sort(plan_.missing.begin(), plan_.missing.end(),
              [](const Missing& a, const Missing& b) { return a.shard < b.shard; });
    return std::move(plan_);
  }

 private:
  absl::Status FindAbsent(absl::Span<const StoredTensor* const> stored) {
    absl::flat_hash_set<absl::string_view> names;
    absl::flat_hash_map<absl::string_view, std::string> absent;
    std::vector<std::string> listed;
    for (uint32_t i = 0; i < wanted_.size(); ++i) {
      const std::string& name = wanted_[i].meta.fqn;
      names.insert(name);
      if (stored[i] != nullptr) continue;
      const auto [at, inserted] = absent.try_emplace(name);
      if (inserted && listed.size() < kMaxListedTensors) {
        at->second = ClosestName(name, options_.stored_names);
        listed.push_back(at->second.empty() ? name : absl::StrCat(name, " (stored: ", at->second, "?)"));
      }
      plan_.missing.push_back(Missing{i, true, at->second, {}});
    }
    if (absent.empty() || options_.allow_partial) return absl::OkStatus();
    return absl::NotFoundError(
        absl::StrCat(absent.size(), " of ", names.size(),
                     " tensors are not in the checkpoint: ", Listed(listed, absent.size())));
  }

  absl::Status PlanShard(uint32_t shard, const StoredTensor& stored) {
    const TensorMeta& meta = wanted_[shard].meta;
    if (absl::Status status = CheckMeta(meta, stored.meta); !status.ok()) return status;
    const IndexedTensor* indexed = nullptr;
    if (stored.boxes.size() <= kFewBoxes) {
      if (absl::Status status = CheckFew(stored); !status.ok()) return status;
    } else {
      std::unique_ptr<IndexedTensor>& known = indexed_[&stored];
      if (known == nullptr) {
        absl::StatusOr<std::unique_ptr<IndexedTensor>> built = IndexStored(stored);
        if (!built.ok()) return built.status();
        known = *std::move(built);
      }
      indexed = known.get();
    }
    Holes holes;
    for (uint32_t box = 0; box < wanted_[shard].boxes.size(); ++box) {
      const Box& want = wanted_[shard].boxes[box].box;
      if (absl::Status status = ValidateBox(want, meta.shape); !status.ok()) {
        return absl::InvalidArgumentError(absl::StrCat("tensor ", meta.fqn, ": ", status.message()));
      }
      if (!IsEmpty(want)) PlanBox(shard, box, stored, indexed, holes);
    }
    if (!holes.boxes.empty() || !holes.complete) AddHoles(shard, std::move(holes));
    return absl::OkStatus();
  }

  // `indexed` null: few boxes.
  void PlanBox(uint32_t shard, uint32_t box, const StoredTensor& stored, const IndexedTensor* indexed,
               Holes& holes) {
    const Box& want = wanted_[shard].boxes[box].box;
    const size_t first = plan_.items.size();
    int64_t missing = NumElements(want);
    const auto add = [&](size_t i, const Box& region) {
      plan_.items.push_back(ReadItem{shard, box, stored.boxes[i].extent, &stored.boxes[i].box, region});
      missing -= NumElements(region);
      return true;
    };
    if (indexed != nullptr) {
      indexed->index.Query(want, add);
    } else {
      for (size_t i = 0; i < stored.boxes.size(); ++i) {
        if (const auto region = Intersect(stored.boxes[i].box, want); region.has_value()) add(i, *region);
      }
    }
    std::sort(plan_.items.begin() + static_cast<ptrdiff_t>(first), plan_.items.end(),
              [](const ReadItem& a, const ReadItem& b) { return a.region < b.region; });
    if (missing == 0) return;
    if (!options_.allow_partial && listed_holes_.size() == kMaxListedTensors) {
      holes.complete = false;  // counted, but no message has room for it
      return;
    }
    std::vector<Box> regions;
    for (size_t i = first; i < plan_.items.size(); ++i) regions.push_back(plan_.items[i].region);
    const Holes found = FindHoles(want, regions, kMaxListedHoles - holes.boxes.size());
    holes.boxes.insert(holes.boxes.end(), found.boxes.begin(), found.boxes.end());
    holes.complete = holes.complete && found.complete;
  }

  void AddHoles(uint32_t shard, Holes holes) {
    ++tensors_with_holes_;
    if (listed_holes_.size() < kMaxListedTensors) {
      listed_holes_.push_back(absl::StrCat(wanted_[shard].meta.fqn, " ", ToString(holes)));
    }
    plan_.missing.push_back(Missing{shard, false, "", std::move(holes)});
  }

  const absl::Span<const TensorShard> wanted_;
  const LoadOptions& options_;
  absl::flat_hash_map<const StoredTensor*, std::unique_ptr<IndexedTensor>> indexed_;
  size_t tensors_with_holes_ = 0;
  std::vector<std::string> listed_holes_;
  LoadPlan plan_;
};

}  // namespace

absl::StatusOr<LoadPlan> MakeLoadPlan(absl::Span<const TensorShard> wanted,
                                      absl::FunctionRef<const StoredTensor*(absl::string_view fqn)> lookup,
                                      const LoadOptions& options) {
  return LoadPlanner(wanted, options).Plan(lookup);
}

}  // namespace keepstep::reshard
