// Holes are found by splitting space, not by looking at elements:
//   1. A region that some box contains has no hole; a region that no box meets is one.
//   2. Otherwise some box ends inside it: cut there, at the dimension whose median boundary divides the boxes
//      best, and go on in both halves with the boxes that meet them.
// Grids and flat ranges are cut along their own seams, so hardly any box lies on both sides. Arrangements
// made to be slow are stopped by a budget.

#include "reshard/coverage.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "reshard/box_index.h"

namespace keepstep::reshard {
namespace {

constexpr int64_t kMaxBoxVisits = 4 << 20;

struct Cut {
  size_t dim = 0;
  int64_t at = 0;
};

class HoleSearch {
 public:
  HoleSearch(absl::Span<const Box> boxes, size_t max_holes) : boxes_(boxes), max_holes_(max_holes) {}

  void Search(const Box& region, const std::vector<uint32_t>& candidates) {
    if (!holes_.complete || IsEmpty(region)) return;
    std::vector<uint32_t> inside;
    for (const uint32_t i : candidates) {
      if (!Intersect(boxes_[i], region).has_value()) continue;
      if (Contains(boxes_[i], region)) return;
      inside.push_back(i);
    }
    visits_ += static_cast<int64_t>(candidates.size() + 1);
    if (inside.empty()) {
      Add(region);
      return;
    }
    if (visits_ > kMaxBoxVisits) {
      holes_.complete = false;
      return;
    }
    const Cut cut = BestCut(region, inside);
    Box low = region;
    Box high = region;
    low.shape[cut.dim] = cut.at - region.origin[cut.dim];
    high.origin[cut.dim] = cut.at;
    high.shape[cut.dim] = region.shape[cut.dim] - low.shape[cut.dim];
    Search(low, inside);
    Search(high, inside);
  }

  Holes Take() { return std::move(holes_); }

 private:
  // Neighbours that together are a box were one hole before it was cut.
  static bool Join(Box& hole, const Box& next) {
    std::optional<size_t> differs;
    for (size_t d = 0; d < hole.shape.size(); ++d) {
      if (hole.origin[d] == next.origin[d] && hole.shape[d] == next.shape[d]) continue;
      if (differs.has_value() || hole.origin[d] + hole.shape[d] != next.origin[d]) return false;
      differs = d;
    }
    if (differs.has_value()) hole.shape[*differs] += next.shape[*differs];
    return differs.has_value();
  }

  void Add(Box region) {
    while (!holes_.boxes.empty()) {
      Box joined = holes_.boxes.back();
      if (!Join(joined, region)) break;
      holes_.boxes.pop_back();
      region = joined;
    }
    if (holes_.boxes.size() == max_holes_) {
      holes_.complete = false;
    } else {
      holes_.boxes.push_back(region);
    }
  }

  // Where no box ends inside the region in any dimension, one contains it: so there is always a cut.
  Cut BestCut(const Box& region, const std::vector<uint32_t>& inside) const {
    Cut best;
    size_t best_larger_side = SIZE_MAX;
    std::vector<int64_t> boundaries;
    for (size_t d = 0; d < region.shape.size(); ++d) {
      const int64_t begin = region.origin[d];
      const int64_t end = begin + region.shape[d];
      boundaries.clear();
      for (const uint32_t i : inside) {
        const int64_t box_begin = boxes_[i].origin[d];
        const int64_t box_end = box_begin + boxes_[i].shape[d];
        if (box_begin > begin && box_begin < end) boundaries.push_back(box_begin);
        if (box_end > begin && box_end < end) boundaries.push_back(box_end);
      }
      if (boundaries.empty()) continue;
      const auto median = boundaries.begin() + static_cast<ptrdiff_t>(boundaries.size() / 2);
      std::nth_element(boundaries.begin(), median, boundaries.end());
      size_t low = 0;
      size_t high = 0;
      for (const uint32_t i : inside) {
        if (boxes_[i].origin[d] < *median) ++low;
        if (boxes_[i].origin[d] + boxes_[i].shape[d] > *median) ++high;
      }
      if (std::max(low, high) < best_larger_side) {
        best = Cut{d, *median};
        best_larger_side = std::max(low, high);
      }
    }
    return best;
  }

  absl::Span<const Box> boxes_;
  const size_t max_holes_;
  int64_t visits_ = 0;
  Holes holes_;
};

}  // namespace

Holes FindHoles(const Box& region, absl::Span<const Box> boxes, size_t max_holes) {
  std::vector<uint32_t> all(boxes.size());
  std::iota(all.begin(), all.end(), 0);
  HoleSearch search(boxes, max_holes);
  search.Search(region, all);
  return search.Take();
}

std::string ToString(const Holes& holes) {
  const std::string listed =
      absl::StrJoin(holes.boxes, ", ", [](std::string* out, const Box& box) { out->append(ToString(box)); });
  return holes.complete ? listed : absl::StrCat(listed, listed.empty() ? "" : ", ", "…");
}

absl::Status CheckCoverage(const Dims& shape, absl::Span<const Box> boxes) {
  if (absl::Status status = ValidateShape(shape); !status.ok()) return status;
  int64_t missing = NumElements(shape);
  for (const Box& box : boxes) {
    if (absl::Status status = ValidateBox(box, shape); !status.ok()) return status;
  }
  if (const auto overlap = FindOverlap(boxes); overlap.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("boxes ", ToString(boxes[overlap->first]), " and ",
                                                   ToString(boxes[overlap->second]), " overlap"));
  }
  for (const Box& box : boxes) missing -= NumElements(box);
  if (missing == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(missing, " of ", NumElements(shape), " elements of shape ", ToString(shape),
                   " are in no box: ", ToString(FindHoles(WholeBox(shape), boxes))));
}

}  // namespace keepstep::reshard
