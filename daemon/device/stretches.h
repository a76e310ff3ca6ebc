// Which small pieces of GPU memory are read together: a copy of its own costs a GPU some microseconds, the time in which
// it copies a hundred KiB, and a model's small tensors lie side by side in a few allocations.
//
// A stretch is read as a whole, with the bytes between its pieces, which an allocator has left there for alignment, and
// is taken apart on the host. Only for reading: what lies between may be somebody else's to write.

#ifndef KEEPSTEP_DAEMON_DEVICE_STRETCHES_H_
#define KEEPSTEP_DAEMON_DEVICE_STRETCHES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace keepstep::daemon {

struct PieceAt {
  uint64_t memory = 0;  // pieces of one stretch have the same
  uint64_t offset_bytes = 0;
  int64_t size_bytes = 0;
};

struct Stretch {
  uint64_t memory = 0;
  uint64_t offset_bytes = 0;
  int64_t size_bytes = 0;
  std::vector<size_t> pieces;  // indices, by offset
};

struct Stretches {
  std::vector<Stretch> stretches;
  std::vector<size_t> alone;  // pieces of none, in the order in which they came
};

inline constexpr int64_t kMaxGapBytes = 4096;
inline constexpr int64_t kMaxSmallBytes = 128 << 10;  // a larger piece is worth a copy of its own
inline constexpr size_t kFewestPieces = 4;            // taking fewer apart costs more than it saves

// No stretch is longer than `limit_bytes`, none begins or ends between pieces. Pieces may lie over each other.
Stretches FindStretches(absl::Span<const PieceAt> pieces, int64_t limit_bytes);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_STRETCHES_H_
