// BoxIndex finds, among many boxes, those that meet a given one, without looking at all of them.
//
// A bounding-volume tree: built in O(n log n) by splitting at the median centre of the dimension with the
// widest spread; a query visits O(log n + hits) nodes for the grids and flat ranges that layouts are made of.

#ifndef KEEPSTEP_RESHARD_BOX_INDEX_H_
#define KEEPSTEP_RESHARD_BOX_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "reshard/box.h"

namespace keepstep::reshard {

class BoxIndex {
 public:
  // Keeps the span, not a copy: the boxes must outlive the index. Empty boxes are never found. REQUIRES: all
  // boxes have the same number of dimensions.
  explicit BoxIndex(absl::Span<const Box> boxes);

  // Calls `found(i, boxes[i] ∩ query)` for every box with elements in `query`, in no useful order, until it
  // returns false. Thread-safe.
  void Query(const Box& query, absl::FunctionRef<bool(size_t, const Box&)> found) const;

 private:
  struct Node {
    Box bounds;
    uint32_t begin = 0;  // the boxes order_[begin, end) lie in `bounds`
    uint32_t end = 0;
    uint32_t right = 0;  // the left child follows its parent; 0 marks a leaf
  };

  uint32_t Build(uint32_t begin, uint32_t end);
  Box BoundsOf(uint32_t begin, uint32_t end) const;

  absl::Span<const Box> boxes_;
  std::vector<uint32_t> order_;
  std::vector<Node> nodes_;
};

// Two boxes that share an element, the lower index first, or nullopt. REQUIRES: the same number of
// dimensions.
std::optional<std::pair<size_t, size_t>> FindOverlap(absl::Span<const Box> boxes);

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_BOX_INDEX_H_
