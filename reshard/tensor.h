// What one rank holds: tensors by identity, the boxes of them, and where each box lies in the rank's buffers.
//
// Values only: a buffer is an index that means something to the caller, never a pointer. Everything here may
// come from a client, so it is validated (ValidateShard) before any plan is made from it.

#ifndef KEEPSTEP_RESHARD_TENSOR_H_
#define KEEPSTEP_RESHARD_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "reshard/box.h"
#include "reshard/dtype.h"

namespace keepstep::reshard {

inline constexpr size_t kMaxTensorNameBytes = 1024;
inline constexpr size_t kMaxBoxesPerShard = 65536;

// Components lie in separate blobs, so that an evaluation reads only the model.
enum class Component : uint8_t { kModel, kOptimizer, kExtra };

absl::string_view ComponentName(Component component);  // "model", "optimizer", "extra"

// The identity of a logical tensor: the same on every rank that holds a part of it.
struct TensorMeta {
  std::string fqn;
  DType dtype = DType::kU8;
  Dims shape;
  Component component = Component::kModel;
};

// A box and where it lies: element (i, j, …) counted from the box's origin is at offset_bytes + i *
// strides_bytes[0] + … Strides may be zero or negative; strides_bytes has one entry per dimension of the box.
struct LocalBox {
  Box box;
  int64_t offset_bytes = 0;
  Dims strides_bytes;
};

// One rank's share of one tensor: all of it in one buffer. A rank without elements of it has no boxes, or
// empty ones.
struct TensorShard {
  TensorMeta meta;
  uint32_t buffer = 0;
  std::vector<LocalBox> boxes;
  // Declared, never guessed: the ranks that hold exactly these boxes, sorted, own rank included. Empty:
  // nobody else.
  std::vector<int32_t> replica_ranks;
  uint32_t group = 0;          // tensors that one call changes: the unit of gating and the order of copying
  bool module_buffer = false;  // differs between replicas by nature (BatchNorm): saved from the lowest rank
};

struct RankShards {
  int32_t rank = 0;
  std::vector<TensorShard> shards;
};

// Strides of a packed row-major array; those of an empty shape count zero extents as one.
Dims ContiguousStridesBytes(const Dims& shape, int64_t item_size_bytes);

// The layout of a packed row-major box that starts at `offset_bytes`: how every extent lies on storage.
LocalBox RowMajorLayout(const Box& box, int64_t item_size_bytes, int64_t offset_bytes = 0);

// A flat shard: elements [begin, end) of the flattening of `of`, contiguous in the buffer from
// `offset_bytes`. An empty `of` gives itself, so that an empty tensor still has a place. REQUIRES:
// ValidateFlatRange.
std::vector<LocalBox> FlatShardBoxes(const Box& of, int64_t begin, int64_t end, int64_t item_size_bytes,
                                     int64_t offset_bytes);

// UTF-8 without control characters: what can be printed anywhere and sent in any message. `what` names it in
// the error.
absl::Status ValidateText(absl::string_view what, absl::string_view text);

// INVALID_ARGUMENT: a name that is empty, longer than kMaxTensorNameBytes, not UTF-8, or with control
// characters.
absl::Status ValidateTensorName(absl::string_view fqn);

// INVALID_ARGUMENT: a bad name, a bad shape, or a size in bytes beyond int64.
absl::Status ValidateMeta(const TensorMeta& meta);

// A whole shard against its buffer. INVALID_ARGUMENT: as above, a bad box, boxes that overlap, too many of
// them, strides of another number of dimensions, replica ranks not strictly ascending and >= 0. OUT_OF_RANGE:
// an element outside [0, buffer_size_bytes). Messages name the tensor.
absl::Status ValidateShard(const TensorShard& shard, int64_t buffer_size_bytes);

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_TENSOR_H_
