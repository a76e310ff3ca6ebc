#include "reshard/tensor.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "reshard/box_index.h"
#include "reshard/check.h"
#include "reshard/flat.h"

namespace keepstep::reshard {
namespace {

// The length of the UTF-8 sequence at the start of `text`, or 0 when it is malformed, overlong, a surrogate
// or past U+10FFFF.
size_t Utf8Length(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xc2 && lead < 0xe0   ? 2
                        : lead >= 0xe0 && lead < 0xf0 ? 3
                        : lead >= 0xf0 && lead < 0xf5 ? 4
                                                      : 0;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if ((lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) >= 0xa0)) return 0;
  if ((lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) >= 0x90)) return 0;
  return length;
}

// C0, DEL, and C1 (U+0080 to U+009F, two bytes in UTF-8).
bool IsControl(absl::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return first < 0x20 || first == 0x7f;
  return character.size() == 2 && first == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0;
}

absl::Status Named(const TensorMeta& meta, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("tensor ", meta.fqn, ": ", status.message()));
}

absl::Status ValidateReplicaRanks(const std::vector<int32_t>& ranks) {
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i] < 0 || (i > 0 && ranks[i] <= ranks[i - 1])) {
      return absl::InvalidArgumentError("the ranks of a replica set must be >= 0 and strictly ascending");
    }
  }
  return absl::OkStatus();
}

// Every element of a box lies between the sums of its lowest and its highest strides; 128 bits cannot
// overflow here.
absl::Status ValidateBytes(const LocalBox& local, int64_t item_size_bytes, int64_t buffer_size_bytes) {
  if (local.strides_bytes.size() != local.box.shape.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("box ", ToString(local.box), " has ", local.strides_bytes.size(), " strides"));
  }
  __int128 begin = local.offset_bytes;
  __int128 end = begin;
  if (!IsEmpty(local.box)) {
    end += item_size_bytes;
    for (size_t d = 0; d < local.box.shape.size(); ++d) {
      const __int128 reach = static_cast<__int128>(local.box.shape[d] - 1) * local.strides_bytes[d];
      (reach < 0 ? begin : end) += reach;
    }
  }
  if (begin < 0 || end > buffer_size_bytes) {
    return absl::OutOfRangeError(absl::StrCat("box ", ToString(local.box), " at offset ", local.offset_bytes,
                                              " with strides ", ToString(local.strides_bytes),
                                              " leaves its buffer of ", buffer_size_bytes, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view ComponentName(Component component) {
  switch (component) {
    case Component::kModel:
      return "model";
    case Component::kOptimizer:
      return "optimizer";
    case Component::kExtra:
      return "extra";
  }
  KEEPSTEP_CHECK(false, "a component outside its enum");
}

Dims ContiguousStridesBytes(const Dims& shape, int64_t item_size_bytes) {
  Dims strides(shape.size());
  int64_t stride = item_size_bytes;
  for (size_t d = shape.size(); d > 0; --d) {
    strides[d - 1] = stride;
    stride *= std::max<int64_t>(shape[d - 1], 1);
  }
  return strides;
}

LocalBox RowMajorLayout(const Box& box, int64_t item_size_bytes, int64_t offset_bytes) {
  return LocalBox{box, offset_bytes, ContiguousStridesBytes(box.shape, item_size_bytes)};
}

std::vector<LocalBox> FlatShardBoxes(const Box& of, int64_t begin, int64_t end, int64_t item_size_bytes,
                                     int64_t offset_bytes) {
  std::vector<LocalBox> boxes;
  if (IsEmpty(of)) {
    boxes.push_back(RowMajorLayout(of, item_size_bytes, offset_bytes));
    return boxes;
  }
  for (const Box& box : DecomposeFlatRange(of, begin, end)) {
    boxes.push_back(RowMajorLayout(box, item_size_bytes, offset_bytes));
    offset_bytes += NumElements(box) * item_size_bytes;
  }
  return boxes;
}

absl::Status ValidateText(absl::string_view what, absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = Utf8Length(text.substr(i));
    if (length == 0) return absl::InvalidArgumentError(absl::StrCat(what, " is not UTF-8 at byte ", i));
    if (IsControl(text.substr(i, length))) {
      return absl::InvalidArgumentError(absl::StrCat(what, " has a control character at byte ", i));
    }
    i += length;
  }
  return absl::OkStatus();
}

absl::Status ValidateTensorName(absl::string_view fqn) {
  if (fqn.empty()) return absl::InvalidArgumentError("a tensor without a name");
  if (fqn.size() > kMaxTensorNameBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a tensor name of ", fqn.size(), " bytes; at most ", kMaxTensorNameBytes));
  }
  return ValidateText("a tensor name", fqn);
}

absl::Status ValidateMeta(const TensorMeta& meta) {
  if (absl::Status status = ValidateTensorName(meta.fqn); !status.ok()) return status;
  if (absl::Status status = ValidateShape(meta.shape); !status.ok()) return Named(meta, status);
  // Strides of an empty shape count zero extents as one, so they must fit too.
  int64_t size_bytes = SizeBytes(meta.dtype);
  for (const int64_t extent : meta.shape) {
    if (__builtin_mul_overflow(size_bytes, std::max<int64_t>(extent, 1), &size_bytes)) {
      return Named(meta, absl::InvalidArgumentError(
                             absl::StrCat("the bytes of shape ", ToString(meta.shape), " overflow 64 bits")));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateShard(const TensorShard& shard, int64_t buffer_size_bytes) {
  const TensorMeta& meta = shard.meta;
  if (absl::Status status = ValidateMeta(meta); !status.ok()) return status;
  if (absl::Status status = ValidateReplicaRanks(shard.replica_ranks); !status.ok())
    return Named(meta, status);
  if (shard.boxes.size() > kMaxBoxesPerShard) {
    return Named(meta, absl::InvalidArgumentError(
                           absl::StrCat(shard.boxes.size(), " boxes; at most ", kMaxBoxesPerShard)));
  }
  std::vector<Box> boxes;
  boxes.reserve(shard.boxes.size());
  for (const LocalBox& local : shard.boxes) {
    if (absl::Status status = ValidateBox(local.box, meta.shape); !status.ok()) return Named(meta, status);
    if (absl::Status status = ValidateBytes(local, SizeBytes(meta.dtype), buffer_size_bytes); !status.ok()) {
      return Named(meta, status);
    }
    boxes.push_back(local.box);
  }
  if (const auto overlap = FindOverlap(boxes); overlap.has_value()) {
    return Named(meta, absl::InvalidArgumentError(absl::StrCat("boxes ", ToString(boxes[overlap->first]),
                                                               " and ", ToString(boxes[overlap->second]),
                                                               " of one shard overlap")));
  }
  return absl::OkStatus();
}

}  // namespace keepstep::reshard
