// The oracle of the property tests: saves and loads element by element, with nothing of the code under test
// but the plain values (Box, LocalBox). What it lacks in speed it has in obviousness.

#ifndef KEEPSTEP_RESHARD_ORACLE_H_
#define KEEPSTEP_RESHARD_ORACLE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "reshard/box.h"
#include "reshard/tensor.h"

namespace keepstep::reshard::oracle {

using Memory = std::vector<std::byte>;

// Calls fn(coordinates) for every element of the box, in row-major order.
template <typename Fn>
void ForEachElement(const Box& box, Fn&& fn) {
  int64_t count = 1;
  for (const int64_t extent : box.shape) count *= extent;
  for (int64_t n = 0; n < count; ++n) {
    Dims at = box.origin;
    int64_t rest = n;
    for (size_t d = box.shape.size(); d > 0; --d) {
      at[d - 1] += rest % box.shape[d - 1];
      rest /= box.shape[d - 1];
    }
    fn(at);
  }
}

inline int64_t LinearIndex(const Dims& at, const Dims& shape) {
  int64_t index = 0;
  for (size_t d = 0; d < shape.size(); ++d) index = index * shape[d] + at[d];
  return index;
}

// Byte `i` of an element: differs between tensors (by `salt`), elements, and the bytes of one element.
inline std::byte ValueByte(uint64_t salt, int64_t linear_index, int64_t i) {
  uint64_t x = (salt << 40) + static_cast<uint64_t>(linear_index) * 16 + static_cast<uint64_t>(i);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return static_cast<std::byte>(x >> 56);
}

// Writes the tensor's true values where `local` says that its elements lie.
inline void WriteElements(const LocalBox& local, const Dims& global_shape, int64_t item_size_bytes,
                          uint64_t salt, Memory& memory) {
  ForEachElement(local.box, [&](const Dims& at) {
    int64_t offset_bytes = local.offset_bytes;
    for (size_t d = 0; d < at.size(); ++d)
      offset_bytes += (at[d] - local.box.origin[d]) * local.strides_bytes[d];
    for (int64_t i = 0; i < item_size_bytes; ++i) {
      memory.at(static_cast<size_t>(offset_bytes + i)) = ValueByte(salt, LinearIndex(at, global_shape), i);
    }
  });
}

// How often each element of the tensor is in a box.
class Counter {
 public:
  explicit Counter(const Dims& shape) : shape_(shape) {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    counts_.resize(static_cast<size_t>(count), 0);
  }

  void Add(const Box& box) {
    ForEachElement(box, [&](const Dims& at) { ++counts_.at(static_cast<size_t>(LinearIndex(at, shape_))); });
  }

  bool AllAre(int wanted) const {
    for (const int count : counts_) {
      if (count != wanted) return false;
    }
    return true;
  }

 private:
  Dims shape_;
  std::vector<int> counts_;
};

}  // namespace keepstep::reshard::oracle

#endif  // KEEPSTEP_RESHARD_ORACLE_H_
