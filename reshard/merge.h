// Merging of reads: ranges that lie near each other in one blob become one read, rounded out to blocks.

#ifndef KEEPSTEP_RESHARD_MERGE_H_
#define KEEPSTEP_RESHARD_MERGE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace keepstep::reshard {

// Bytes [begin, end); begin <= end.
struct ByteRange {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

// Out to multiples of `block_bytes` counted from zero, but not past `size_bytes` (the end of what is stored).
// REQUIRES: 0 <= begin <= end <= size_bytes, block_bytes > 0. An empty range stays as it is.
ByteRange RoundOut(ByteRange range, int64_t block_bytes, int64_t size_bytes);

// Sorted, disjoint ranges that cover all of `ranges` (in any order; empty ones vanish). Ranges that overlap
// always become one, so no byte is read twice; a gap of at most `max_gap_bytes` is bridged where the result
// is at most `max_merged_bytes`.
std::vector<ByteRange> MergeRanges(std::vector<ByteRange> ranges, int64_t max_gap_bytes,
                                   int64_t max_merged_bytes);

// The index of the merged range that holds `range`. REQUIRES: a result of MergeRanges whose input had
// `range`, not empty.
size_t FindMerged(absl::Span<const ByteRange> merged, ByteRange range);

int64_t TotalBytes(absl::Span<const ByteRange> disjoint);

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_MERGE_H_
