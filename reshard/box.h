// A Box is an N-dimensional hyper-rectangle in elements: the coordinates in which everything is saved and
// loaded.
//
// Invariant of a valid box: origin and shape have one entry per dimension, all >= 0. A box of no dimensions
// holds one element (a scalar); a box with any zero extent is empty, wherever it lies. Nothing here knows
// dtypes, ranks or bytes.

#ifndef KEEPSTEP_RESHARD_BOX_H_
#define KEEPSTEP_RESHARD_BOX_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"

namespace keepstep::reshard {

using Dims = absl::InlinedVector<int64_t, 4>;

inline constexpr size_t kMaxDims = 64;

struct Box {
  Dims origin;
  Dims shape;

  friend bool operator==(const Box& a, const Box& b) { return a.origin == b.origin && a.shape == b.shape; }
  friend bool operator!=(const Box& a, const Box& b) { return !(a == b); }
  // Row-major order of origins, then of shapes: the order in which boxes are listed and compared.
  friend bool operator<(const Box& a, const Box& b) {
    return a.origin != b.origin ? a.origin < b.origin : a.shape < b.shape;
  }
  template <typename H>
  friend H AbslHashValue(H h, const Box& box) {
    return H::combine(std::move(h), box.origin, box.shape);
  }
};

// The box of a whole tensor: origin zero.
Box WholeBox(const Dims& shape);

// REQUIRES: a shape that passed ValidateShape (the product then fits).
int64_t NumElements(const Dims& shape);
int64_t NumElements(const Box& box);

bool IsEmpty(const Box& box);

// The elements in both, never an empty box: nullopt when there are none, or when the dimensions differ in
// number.
std::optional<Box> Intersect(const Box& a, const Box& b);

// Whether every interval of `inner` lies in that of `outer`; an empty `inner` has a place too.
bool Contains(const Box& outer, const Box& inner);

// INVALID_ARGUMENT: more than kMaxDims, a negative extent, or a product of the non-zero extents beyond int64.
absl::Status ValidateShape(const Dims& shape);

// INVALID_ARGUMENT: a shape as above, dimensions that differ in number, or a box that leaves the global
// shape.
absl::Status ValidateBox(const Box& box, const Dims& global_shape);

std::string ToString(const Dims& dims);  // "[4, 8]"
std::string ToString(const Box& box);    // "[0:4, 8:16]": begin and end of each dimension; "[]" for a scalar

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_BOX_H_
