#include "reshard/layout.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace keepstep::reshard {
namespace {

constexpr int64_t kMaxMeshRanks = 1 << 20;

struct Interval {
  int64_t begin = 0;
  int64_t size = 0;
};

// What a rank holds of one tensor dimension, in the order of its local memory.
using Intervals = std::vector<Interval>;

// One mesh dimension that shards the tensor dimension at hand.
struct Step {
  Placement placement;
  int64_t mesh_size = 1;
  int64_t coordinate = 0;
};

void Append(Intervals& to, Interval next) {
  if (next.size == 0) return;
  if (!to.empty() && to.back().begin + to.back().size == next.begin) {
    to.back().size += next.size;
  } else {
    to.push_back(next);
  }
}

// The positions of the concatenation that lie in `ranges`, which ascend: one pass over both.
Intervals Slice(const Intervals& from, absl::Span<const Interval> ranges) {
  Intervals slice;
  size_t i = 0;
  int64_t at = 0;  // where from[i] begins
  for (const Interval& range : ranges) {
    const int64_t end = range.begin + range.size;
    while (i < from.size() && at < end) {
      const int64_t low = std::max(range.begin - at, int64_t{0});
      const int64_t high = std::min(end - at, from[i].size);
      if (low < high) Append(slice, {from[i].begin + low, high - low});
      if (at + from[i].size > end) break;  // the next range may begin in it
      at += from[i++].size;
    }
  }
  return slice;
}

int64_t Size(const Intervals& intervals) {
  int64_t size = 0;
  for (const Interval& interval : intervals) size += interval.size;
  return size;
}

// Chunk `index` of `count` of a range, as torch.chunk has it.
Interval ChunkOf(const Interval& range, int64_t count, int64_t index) {
  const int64_t chunk = range.size / count + (range.size % count != 0 ? 1 : 0);
  const bool past_the_end =
      chunk == 0 || index > range.size / chunk;  // asked first: chunk * index might overflow
  const int64_t begin = past_the_end ? range.size : chunk * index;
  return {range.begin + begin, std::min(chunk, range.size - begin)};
}

Intervals Chunk(const Intervals& from, int64_t count, int64_t index) {
  const Interval chunk = ChunkOf({0, Size(from)}, count, index);
  return Slice(from, {&chunk, 1});
}

// All pieces in one pass: several strided dimensions in a row would otherwise multiply, and a client chooses
// them.
Intervals StridedChunk(const Intervals& from, const Step& step) {
  const Interval whole{0, Size(from)};
  Intervals pieces;
  for (int64_t j = 0; j < step.placement.split_factor; ++j) {
    const Interval chunk = ChunkOf(whole, step.placement.split_factor, j);
    if (chunk.size == 0) break;
    pieces.push_back(ChunkOf(chunk, step.mesh_size, step.coordinate));
  }
  return Slice(from, pieces);
}

Intervals Apply(absl::Span<const Step> steps, Intervals held) {
  if (steps.empty()) return held;
  const Step& step = steps[0];
  const absl::Span<const Step> rest = steps.subspan(1);
  if (step.placement.kind == Placement::Kind::kStridedShard) {
    int64_t ranks_to_the_right = 1;
    for (const Step& right : rest) ranks_to_the_right *= right.mesh_size;
    if (step.placement.split_factor != ranks_to_the_right) return Apply(rest, StridedChunk(held, step));
    return Chunk(Apply(rest, std::move(held)), step.mesh_size, step.coordinate);
  }
  return Apply(rest, Chunk(held, step.mesh_size, step.coordinate));
}

absl::Status Validate(const Mesh& mesh, absl::Span<const Placement> placements, const Dims& shape,
                      int32_t rank) {
  if (absl::Status status = ValidateShape(shape); !status.ok()) return status;
  if (placements.size() != mesh.sizes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(placements.size(), " placements on a mesh of ", mesh.sizes.size(), " dimensions"));
  }
  int64_t ranks = 1;
  for (const int64_t size : mesh.sizes) {
    if (size < 1 || size > kMaxMeshRanks || (ranks *= size) > kMaxMeshRanks) {
      return absl::InvalidArgumentError(absl::StrCat("a mesh of sizes ", ToString(mesh.sizes),
                                                     "; it must have 1 to ", kMaxMeshRanks, " ranks"));
    }
  }
  if (rank < 0 || rank >= ranks) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " is outside a mesh of ", ranks, " ranks"));
  }
  for (const Placement& placement : placements) {
    if (placement.kind == Placement::Kind::kReplicate) continue;
    if (placement.dim < 0 || static_cast<size_t>(placement.dim) >= shape.size()) {
      return absl::InvalidArgumentError(absl::StrCat("a placement shards dimension ", placement.dim,
                                                     " of a tensor of ", shape.size(), " dimensions"));
    }
    if (placement.split_factor < 1 || placement.split_factor > static_cast<int64_t>(kMaxBoxesPerShard)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a split factor of ", placement.split_factor, "; 1 to ", kMaxBoxesPerShard));
    }
  }
  return absl::OkStatus();
}

std::vector<int64_t> CoordinatesOf(const Mesh& mesh, int64_t rank) {
  std::vector<int64_t> coordinates(mesh.sizes.size());
  for (size_t m = mesh.sizes.size(); m > 0; --m) {
    coordinates[m - 1] = rank % mesh.sizes[m - 1];
    rank /= mesh.sizes[m - 1];
  }
  return coordinates;
}

// The ranks that differ from `rank` in replicated mesh dimensions only, ascending because outer dimensions
// come first.
std::vector<int32_t> ReplicasOf(const Mesh& mesh, absl::Span<const Placement> placements,
                                absl::Span<const int64_t> coordinates) {
  std::vector<int32_t> ranks = {0};
  for (size_t m = 0; m < mesh.sizes.size(); ++m) {
    const bool replicated = placements[m].kind == Placement::Kind::kReplicate;
    std::vector<int32_t> next;
    for (const int32_t outer : ranks) {
      const int64_t base = outer * mesh.sizes[m];
      for (int64_t c = replicated ? 0 : coordinates[m]; c < mesh.sizes[m]; ++c) {
        next.push_back(static_cast<int32_t>(base + c));
        if (!replicated) break;
      }
    }
    ranks = std::move(next);
  }
  if (ranks.size() == 1) ranks.clear();
  return ranks;
}

// The product of the intervals of every dimension, last dimension fastest.
void AddBoxes(absl::Span<const Intervals> held, PlacedShard& placed) {
  const size_t dims = held.size();
  std::vector<size_t> index(dims, 0);
  Dims local_origin(dims, 0);
  for (;;) {
    Box box{Dims(dims), Dims(dims)};
    for (size_t d = 0; d < dims; ++d) {
      box.origin[d] = held[d][index[d]].begin;
      box.shape[d] = held[d][index[d]].size;
    }
    placed.boxes.push_back(box);
    placed.local_origins.push_back(local_origin);
    size_t d = dims;
    for (; d > 0; --d) {
      local_origin[d - 1] += held[d - 1][index[d - 1]].size;
      if (++index[d - 1] < held[d - 1].size()) break;
      index[d - 1] = 0;
      local_origin[d - 1] = 0;
    }
    if (d == 0) return;
  }
}

}  // namespace

absl::StatusOr<PlacedShard> ShardOf(const Mesh& mesh, absl::Span<const Placement> placements,
                                    const Dims& global_shape, int32_t rank) {
  if (absl::Status status = Validate(mesh, placements, global_shape, rank); !status.ok()) return status;
  const std::vector<int64_t> coordinates = CoordinatesOf(mesh, rank);

  PlacedShard placed;
  placed.replica_ranks = ReplicasOf(mesh, placements, coordinates);
  std::vector<Intervals> held;
  size_t boxes = 1;
  for (size_t d = 0; d < global_shape.size(); ++d) {
    std::vector<Step> steps;
    for (size_t m = 0; m < placements.size(); ++m) {
      if (placements[m].kind == Placement::Kind::kReplicate || static_cast<size_t>(placements[m].dim) != d)
        continue;
      steps.push_back({placements[m], mesh.sizes[m], coordinates[m]});
    }
    held.push_back(Apply(steps, {{0, global_shape[d]}}));
    placed.local_shape.push_back(Size(held.back()));
    boxes *= held.back().size();
    if (boxes > kMaxBoxesPerShard) {
      return absl::InvalidArgumentError(
          absl::StrCat("rank ", rank, " would hold more than ", kMaxBoxesPerShard, " boxes of one tensor"));
    }
  }
  if (NumElements(placed.local_shape) == 0) {
    placed.boxes.push_back(WholeBox(placed.local_shape));
    placed.local_origins.push_back(Dims(global_shape.size(), 0));
  } else {
    AddBoxes(held, placed);
  }
  return placed;
}

absl::Status ValidatePlace(const PlacedShard& placed, int64_t offset_bytes, const Dims& strides_bytes) {
  // The sum of the farthest reach in each direction: 64 terms of 126 bits each would need more than 128 bits,
  // so each is held against the limit by itself first.
  constexpr __int128 kMost = std::numeric_limits<int64_t>::max();
  __int128 low = offset_bytes, high = offset_bytes;
  for (size_t d = 0; d < strides_bytes.size(); ++d) {
    const __int128 reach = static_cast<__int128>(placed.local_shape[d]) * strides_bytes[d];
    (reach < 0 ? low : high) += reach;
    if (low < -kMost || high > kMost) {
      return absl::InvalidArgumentError(absl::StrCat("a local tensor of shape ", ToString(placed.local_shape),
                                                     " with strides ", ToString(strides_bytes),
                                                     " reaches beyond 64 bits"));
    }
  }
  return absl::OkStatus();
}

std::vector<LocalBox> PlaceInBuffer(const PlacedShard& placed, int64_t offset_bytes,
                                    const Dims& strides_bytes) {
  std::vector<LocalBox> boxes;
  boxes.reserve(placed.boxes.size());
  for (size_t i = 0; i < placed.boxes.size(); ++i) {
    LocalBox local{placed.boxes[i], offset_bytes, strides_bytes};
    for (size_t d = 0; d < strides_bytes.size(); ++d) {
      local.offset_bytes += placed.local_origins[i][d] * strides_bytes[d];
    }
    boxes.push_back(std::move(local));
  }
  return boxes;
}

}  // namespace keepstep::reshard
