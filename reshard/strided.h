// The byte-run engine of save and load: a region that lies in two memories with different strides becomes the
// longest runs that are contiguous in both.
//
// To move only some bytes of a packed box (a piece of a large item), decompose the piece first (flat.h) and
// give each of its boxes as the region.

#ifndef KEEPSTEP_RESHARD_STRIDED_H_
#define KEEPSTEP_RESHARD_STRIDED_H_

#include <cstddef>
#include <cstdint>

#include "absl/container/inlined_vector.h"
#include "reshard/box.h"
#include "reshard/tensor.h"

namespace keepstep::reshard {

// A loop nest over runs, outermost loop first: extents > 1, and no two neighbouring loops could be one. The
// number of bytes moved is run_bytes times the product of the extents.
struct RunNest {
  struct Loop {
    int64_t extent;
    int64_t src_stride_bytes;
    int64_t dst_stride_bytes;
  };
  absl::InlinedVector<Loop, 4> loops;
  int64_t src_offset_bytes = 0;
  int64_t dst_offset_bytes = 0;
  int64_t run_bytes = 0;  // 0: nothing to move
};

// REQUIRES: `region` lies in both boxes. Loops are ordered for ascending destinations.
RunNest MakeRunNest(const Box& region, const LocalBox& src, const LocalBox& dst, int64_t item_size_bytes);

int64_t RunCount(const RunNest& nest);

// Calls fn(src_offset_bytes, dst_offset_bytes, size_bytes) for every run.
template <typename Fn>
void ForEachRun(const RunNest& nest, Fn&& fn) {
  if (nest.run_bytes == 0) return;
  const size_t depth = nest.loops.size();
  if (depth == 0) {
    fn(nest.src_offset_bytes, nest.dst_offset_bytes, nest.run_bytes);
    return;
  }
  const RunNest::Loop inner = nest.loops[depth - 1];
  absl::InlinedVector<int64_t, 4> index(depth - 1, 0);
  int64_t src = nest.src_offset_bytes;
  int64_t dst = nest.dst_offset_bytes;
  for (;;) {
    for (int64_t i = 0; i < inner.extent; ++i) {
      fn(src + i * inner.src_stride_bytes, dst + i * inner.dst_stride_bytes, nest.run_bytes);
    }
    size_t level = depth - 1;
    for (; level > 0; --level) {
      const RunNest::Loop& loop = nest.loops[level - 1];
      src += loop.src_stride_bytes;
      dst += loop.dst_stride_bytes;
      if (++index[level - 1] < loop.extent) break;
      index[level - 1] = 0;
      src -= loop.extent * loop.src_stride_bytes;
      dst -= loop.extent * loop.dst_stride_bytes;
    }
    if (level == 0) return;
  }
}

template <typename Fn>
void ForEachRun(const Box& region, const LocalBox& src, const LocalBox& dst, int64_t item_size_bytes,
                Fn&& fn) {
  ForEachRun(MakeRunNest(region, src, dst, item_size_bytes), static_cast<Fn&&>(fn));
}

// Copies every run between two memories that do not overlap. Offsets count from `src` and `dst`.
void CopyRuns(const RunNest& nest, const std::byte* src, std::byte* dst);

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_STRIDED_H_
