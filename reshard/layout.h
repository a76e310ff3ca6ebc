// Layout: from a mesh and one placement per mesh dimension to the boxes that a rank holds, as PyTorch's
// DTensor has it.
//
// 1. Mesh dimensions are applied left to right. Shard(d) takes this coordinate's chunk of what is left of
//    dimension d: chunks of ceil(n / k) elements, so the last ranks may hold fewer, or none (torch.chunk).
// 2. StridedShard(d, f) splits into f chunks first and takes this coordinate's piece of each: dimension d was
//    already split f ways by mesh dimensions further right (FSDP over tensor parallelism). Where f is exactly
//    the product of the mesh dimensions further right that shard d, those are applied first: uneven sizes
//    need it.
// 3. Replicate leaves the box alone; ranks that differ only in replicated coordinates hold the same boxes.
// Ranks are row-major coordinates of the mesh.

#ifndef KEEPSTEP_RESHARD_LAYOUT_H_
#define KEEPSTEP_RESHARD_LAYOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "reshard/box.h"
#include "reshard/tensor.h"

namespace keepstep::reshard {

struct Mesh {
  std::vector<std::string> names;  // dp, tp, …: one per dimension, for people
  Dims sizes;
};

struct Placement {
  enum class Kind : uint8_t { kReplicate, kShard, kStridedShard };
  Kind kind = Kind::kReplicate;
  int32_t dim = 0;           // of the tensor; unused by kReplicate
  int64_t split_factor = 1;  // of kStridedShard
};

inline Placement Replicate() { return {}; }
inline Placement Shard(int32_t dim) { return {Placement::Kind::kShard, dim, 1}; }
inline Placement StridedShard(int32_t dim, int64_t split_factor) {
  return {Placement::Kind::kStridedShard, dim, split_factor};
}

// What one rank holds. Its local tensor has `local_shape`; boxes[i] starts at local_origins[i] in it. A rank
// without elements has one empty box, so that an empty tensor still has a place.
struct PlacedShard {
  Dims local_shape;
  std::vector<Box> boxes;  // row-major order of the local tensor's blocks
  std::vector<Dims> local_origins;
  std::vector<int32_t> replica_ranks;  // sorted, own rank included; empty when nobody else holds these boxes
};

// INVALID_ARGUMENT: a mesh of no ranks or more than 2^20, another number of placements than mesh dimensions,
// a dimension outside the tensor, a split factor below one, a bad shape, more than kMaxBoxesPerShard boxes;
// rank outside the mesh.
absl::StatusOr<PlacedShard> ShardOf(const Mesh& mesh, absl::Span<const Placement> placements,
                                    const Dims& global_shape, int32_t rank);

// INVALID_ARGUMENT when some element of the local tensor would lie beyond 64 bits. REQUIRES: one stride per
// dimension.
absl::Status ValidatePlace(const PlacedShard& placed, int64_t offset_bytes, const Dims& strides_bytes);

// The boxes of a local tensor that lies in memory at `offset_bytes` with `strides_bytes` (see
// ContiguousStridesBytes). REQUIRES: a place that passes ValidatePlace.
std::vector<LocalBox> PlaceInBuffer(const PlacedShard& placed, int64_t offset_bytes,
                                    const Dims& strides_bytes);

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_LAYOUT_H_
