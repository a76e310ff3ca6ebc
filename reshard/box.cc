#include "reshard/box.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace keepstep::reshard {

Box WholeBox(const Dims& shape) { return Box{Dims(shape.size(), 0), shape}; }

int64_t NumElements(const Dims& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) {
    if (extent == 0) return 0;
    count *= extent;
  }
  return count;
}

int64_t NumElements(const Box& box) { return NumElements(box.shape); }

bool IsEmpty(const Box& box) { return std::find(box.shape.begin(), box.shape.end(), 0) != box.shape.end(); }

std::optional<Box> Intersect(const Box& a, const Box& b) {
  const size_t dims = a.shape.size();
  if (b.shape.size() != dims) return std::nullopt;
  Box both{Dims(dims), Dims(dims)};
  for (size_t d = 0; d < dims; ++d) {
    const int64_t begin = std::max(a.origin[d], b.origin[d]);
    const int64_t end = std::min(a.origin[d] + a.shape[d], b.origin[d] + b.shape[d]);
    if (begin >= end) return std::nullopt;
    both.origin[d] = begin;
    both.shape[d] = end - begin;
  }
  return both;
}

bool Contains(const Box& outer, const Box& inner) {
  if (outer.shape.size() != inner.shape.size()) return false;
  for (size_t d = 0; d < outer.shape.size(); ++d) {
    if (inner.origin[d] < outer.origin[d]) return false;
    if (inner.origin[d] + inner.shape[d] > outer.origin[d] + outer.shape[d]) return false;
  }
  return true;
}

absl::Status ValidateShape(const Dims& shape) {
  if (shape.size() > kMaxDims) {
    return absl::InvalidArgumentError(
        absl::StrCat("a shape of ", shape.size(), " dimensions; at most ", kMaxDims));
  }
  int64_t product = 1;
  for (const int64_t extent : shape) {
    if (extent < 0)
      return absl::InvalidArgumentError(absl::StrCat("negative extent in shape ", ToString(shape)));
    if (__builtin_mul_overflow(product, std::max<int64_t>(extent, 1), &product)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the elements of shape ", ToString(shape), " overflow 64 bits"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateBox(const Box& box, const Dims& global_shape) {
  if (absl::Status shape = ValidateShape(global_shape); !shape.ok()) return shape;
  const size_t dims = global_shape.size();
  if (box.origin.size() != dims || box.shape.size() != dims) {
    return absl::InvalidArgumentError(absl::StrCat("a box of ", box.origin.size(), " origins and ",
                                                   box.shape.size(), " extents in a shape of ", dims,
                                                   " dimensions"));
  }
  for (size_t d = 0; d < dims; ++d) {
    // Written so that no sum of untrusted numbers can overflow.
    if (box.origin[d] < 0 || box.shape[d] < 0 || box.origin[d] > global_shape[d] ||
        box.shape[d] > global_shape[d] - box.origin[d]) {
      return absl::InvalidArgumentError(absl::StrCat("the box at ", ToString(box.origin), " of shape ",
                                                     ToString(box.shape), " lies outside the global shape ",
                                                     ToString(global_shape)));
    }
  }
  return absl::OkStatus();
}

std::string ToString(const Dims& dims) { return absl::StrCat("[", absl::StrJoin(dims, ", "), "]"); }

std::string ToString(const Box& box) {
  std::string text = "[";
  for (size_t d = 0; d < box.shape.size(); ++d) {
    // Messages show boxes that are refused: their end may be beyond 64 bits.
    int64_t end = 0;
    if (__builtin_add_overflow(box.origin[d], box.shape[d], &end)) {
      absl::StrAppend(&text, d == 0 ? "" : ", ", box.origin[d], ":+", box.shape[d]);
    } else {
      absl::StrAppend(&text, d == 0 ? "" : ", ", box.origin[d], ":", end);
    }
  }
  return text + "]";
}

}  // namespace keepstep::reshard
