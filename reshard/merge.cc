#include "reshard/merge.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "reshard/check.h"

namespace keepstep::reshard {

ByteRange RoundOut(ByteRange range, int64_t block_bytes, int64_t size_bytes) {
  KEEPSTEP_CHECK(block_bytes > 0 && 0 <= range.begin && range.begin <= range.end && range.end <= size_bytes,
                 "a range outside its bytes");
  if (range.size() == 0) return range;
  const int64_t last_block = (range.end - 1) / block_bytes;
  const int64_t last_block_begin = last_block * block_bytes;
  const int64_t end =
      size_bytes - last_block_begin > block_bytes ? last_block_begin + block_bytes : size_bytes;
  return {range.begin / block_bytes * block_bytes, end};
}

std::vector<ByteRange> MergeRanges(std::vector<ByteRange> ranges, int64_t max_gap_bytes,
                                   int64_t max_merged_bytes) {
  std::sort(ranges.begin(), ranges.end(), [](const ByteRange& a, const ByteRange& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  std::vector<ByteRange> merged;
  for (const ByteRange& range : ranges) {
    if (range.size() == 0) continue;
    if (!merged.empty()) {
      ByteRange& last = merged.back();
      const int64_t end = std::max(last.end, range.end);
      const bool overlaps = range.begin < last.end;
      const bool is_near =
          !overlaps && range.begin - last.end <= max_gap_bytes && end - last.begin <= max_merged_bytes;
      if (overlaps || is_near) {
        last.end = end;
        continue;
      }
    }
    merged.push_back(range);
  }
  return merged;
}

size_t FindMerged(absl::Span<const ByteRange> merged, ByteRange range) {
  const auto after =
      std::upper_bound(merged.begin(), merged.end(), range.begin,
                       [](int64_t begin, const ByteRange& other) { return begin < other.begin; });
  KEEPSTEP_CHECK(after != merged.begin() && range.end <= (after - 1)->end, "a range that was not merged");
  return static_cast<size_t>(after - merged.begin()) - 1;
}

int64_t TotalBytes(absl::Span<const ByteRange> disjoint) {
  int64_t total = 0;
  for (const ByteRange& range : disjoint) total += range.size();
  return total;
}

}  // namespace keepstep::reshard
