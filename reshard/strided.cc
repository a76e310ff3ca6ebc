#include "reshard/strided.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "reshard/check.h"

namespace keepstep::reshard {
namespace {

// Copies runs of a size known to the compiler: one load and one store each, where memcpy of a variable size
// is a call.
template <size_t kRunBytes>
void CopyFixedRuns(const RunNest& nest, const std::byte* src, std::byte* dst) {
  ForEachRun(nest, [=](int64_t src_offset, int64_t dst_offset, int64_t) {
    std::memcpy(dst + dst_offset, src + src_offset, kRunBytes);
  });
}

// Two loops are one when a step of the outer is all of the inner, in both memories.
void JoinLoops(RunNest& nest) {
  size_t kept = 0;
  for (size_t i = 0; i < nest.loops.size(); ++i) {
    const RunNest::Loop inner = nest.loops[i];
    if (kept > 0) {
      RunNest::Loop& outer = nest.loops[kept - 1];
      if (outer.src_stride_bytes == inner.extent * inner.src_stride_bytes &&
          outer.dst_stride_bytes == inner.extent * inner.dst_stride_bytes) {
        outer = {outer.extent * inner.extent, inner.src_stride_bytes, inner.dst_stride_bytes};
        continue;
      }
    }
    nest.loops[kept++] = inner;
  }
  nest.loops.resize(kept);
}

}  // namespace

RunNest MakeRunNest(const Box& region, const LocalBox& src, const LocalBox& dst, int64_t item_size_bytes) {
  KEEPSTEP_CHECK(Contains(src.box, region) && Contains(dst.box, region), "a region outside its boxes");
  RunNest nest;
  if (IsEmpty(region)) return nest;
  nest.src_offset_bytes = src.offset_bytes;
  nest.dst_offset_bytes = dst.offset_bytes;
  nest.run_bytes = item_size_bytes;
  for (size_t d = 0; d < region.shape.size(); ++d) {
    nest.src_offset_bytes += (region.origin[d] - src.box.origin[d]) * src.strides_bytes[d];
    nest.dst_offset_bytes += (region.origin[d] - dst.box.origin[d]) * dst.strides_bytes[d];
    if (region.shape[d] > 1)
      nest.loops.push_back({region.shape[d], src.strides_bytes[d], dst.strides_bytes[d]});
  }
  std::stable_sort(nest.loops.begin(), nest.loops.end(), [](const RunNest::Loop& a, const RunNest::Loop& b) {
    return std::llabs(a.dst_stride_bytes) > std::llabs(b.dst_stride_bytes);
  });
  JoinLoops(nest);
  if (!nest.loops.empty() && nest.loops.back().src_stride_bytes == item_size_bytes &&
      nest.loops.back().dst_stride_bytes == item_size_bytes) {
    nest.run_bytes *= nest.loops.back().extent;
    nest.loops.pop_back();
  }
  return nest;
}

int64_t RunCount(const RunNest& nest) {
  int64_t count = nest.run_bytes == 0 ? 0 : 1;
  for (const RunNest::Loop& loop : nest.loops) count *= loop.extent;
  return count;
}

void CopyRuns(const RunNest& nest, const std::byte* src, std::byte* dst) {
  switch (nest.run_bytes) {
    case 1:
      return CopyFixedRuns<1>(nest, src, dst);
    case 2:
      return CopyFixedRuns<2>(nest, src, dst);
    case 4:
      return CopyFixedRuns<4>(nest, src, dst);
    case 8:
      return CopyFixedRuns<8>(nest, src, dst);
    case 16:
      return CopyFixedRuns<16>(nest, src, dst);
    default:
      ForEachRun(nest, [=](int64_t src_offset, int64_t dst_offset, int64_t size_bytes) {
        std::memcpy(dst + dst_offset, src + src_offset, static_cast<size_t>(size_bytes));
      });
  }
}

}  // namespace keepstep::reshard
