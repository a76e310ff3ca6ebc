// Flat ranges: ZeRO, FSDP1 and Megatron's distributed optimizer shard the row-major flattening of a tensor,
// or of one rank's box of it. Such a range is a few boxes, and needs no communication to be saved or loaded
// as boxes.

#ifndef KEEPSTEP_RESHARD_FLAT_H_
#define KEEPSTEP_RESHARD_FLAT_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "reshard/box.h"

namespace keepstep::reshard {

// INVALID_ARGUMENT unless 0 <= begin <= end <= NumElements(of).
absl::Status ValidateFlatRange(const Box& of, int64_t begin, int64_t end);

// The elements [begin, end) of the row-major flattening of `of`, as at most max(1, 2 * dims - 1) boxes in the
// tensor's coordinates. They are in row-major order and each is contiguous within the flattening, so the
// first starts at `begin` and each starts where the one before ends. An empty range gives no box. REQUIRES: a
// range that passes ValidateFlatRange.
std::vector<Box> DecomposeFlatRange(const Box& of, int64_t begin, int64_t end);

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_FLAT_H_
