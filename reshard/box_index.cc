#include "reshard/box_index.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "reshard/check.h"

namespace keepstep::reshard {
namespace {

constexpr uint32_t kBoxesPerLeaf = 8;

int64_t Centre(const Box& box, size_t dim) { return box.origin[dim] + box.shape[dim] / 2; }

}  // namespace

BoxIndex::BoxIndex(absl::Span<const Box> boxes) : boxes_(boxes) {
  KEEPSTEP_CHECK(boxes.size() < std::numeric_limits<uint32_t>::max(), "too many boxes for one index");
  order_.reserve(boxes.size());
  for (uint32_t i = 0; i < boxes.size(); ++i) {
    KEEPSTEP_CHECK(boxes[i].shape.size() == boxes[0].shape.size(),
                   "boxes of different dimensions in one index");
    if (!IsEmpty(boxes[i])) order_.push_back(i);
  }
  if (!order_.empty()) Build(0, static_cast<uint32_t>(order_.size()));
}

Box BoxIndex::BoundsOf(uint32_t begin, uint32_t end) const {
  Box bounds = boxes_[order_[begin]];
  for (uint32_t i = begin + 1; i < end; ++i) {
    const Box& box = boxes_[order_[i]];
    for (size_t d = 0; d < box.shape.size(); ++d) {
      const int64_t last = std::max(bounds.origin[d] + bounds.shape[d], box.origin[d] + box.shape[d]);
      bounds.origin[d] = std::min(bounds.origin[d], box.origin[d]);
      bounds.shape[d] = last - bounds.origin[d];
    }
  }
  return bounds;
}

uint32_t BoxIndex::Build(uint32_t begin, uint32_t end) {
  const uint32_t node = static_cast<uint32_t>(nodes_.size());
  nodes_.push_back(Node{BoundsOf(begin, end), begin, end, 0});
  const size_t dims = nodes_[node].bounds.shape.size();
  if (end - begin <= kBoxesPerLeaf || dims == 0) return node;

  size_t widest = 0;
  int64_t widest_spread = -1;
  for (size_t d = 0; d < dims; ++d) {
    const auto [low, high] = std::minmax_element(
        order_.begin() + begin, order_.begin() + end,
        [&](uint32_t a, uint32_t b) { return Centre(boxes_[a], d) < Centre(boxes_[b], d); });
    const int64_t spread = Centre(boxes_[*high], d) - Centre(boxes_[*low], d);
    if (spread > widest_spread) {
      widest = d;
      widest_spread = spread;
    }
  }
  const uint32_t middle = begin + (end - begin) / 2;
  std::nth_element(
      order_.begin() + begin, order_.begin() + middle, order_.begin() + end,
      [&](uint32_t a, uint32_t b) { return Centre(boxes_[a], widest) < Centre(boxes_[b], widest); });
  Build(begin, middle);
  const uint32_t right = Build(middle, end);
  nodes_[node].right = right;
  return node;
}

void BoxIndex::Query(const Box& query, absl::FunctionRef<bool(size_t, const Box&)> found) const {
  if (nodes_.empty()) return;
  absl::InlinedVector<uint32_t, 64> pending = {0};
  while (!pending.empty()) {
    const uint32_t at = pending.back();
    pending.pop_back();
    const Node& node = nodes_[at];
    if (!Intersect(node.bounds, query).has_value()) continue;
    if (node.right != 0) {
      pending.push_back(node.right);
      pending.push_back(at + 1);
      continue;
    }
    for (uint32_t i = node.begin; i < node.end; ++i) {
      const std::optional<Box> both = Intersect(boxes_[order_[i]], query);
      if (both.has_value() && !found(order_[i], *both)) return;
    }
  }
}

std::optional<std::pair<size_t, size_t>> FindOverlap(absl::Span<const Box> boxes) {
  if (boxes.size() < 2) return std::nullopt;
  const BoxIndex index(boxes);
  std::optional<std::pair<size_t, size_t>> overlap;
  for (size_t i = 0; i < boxes.size() && !overlap.has_value(); ++i) {
    index.Query(boxes[i], [&](size_t other, const Box&) {
      if (other != i) overlap = std::minmax(i, other);
      return other == i;
    });
  }
  return overlap;
}

}  // namespace keepstep::reshard
