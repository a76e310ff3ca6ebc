#include "client/c_shards.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/failure.h"
#include "proto/session_page.h"
#include "reshard/dtype.h"

namespace keepstep::client {
namespace {

constexpr size_t kMaxDims = 64;
constexpr size_t kMaxShards = size_t{1} << 22;

absl::Status Bad(const ks_shard& shard, absl::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_SHARD",
                   absl::StrCat(shard.fqn == nullptr ? "a shard without a name" : shard.fqn, ": ", what),
                   "register");
}

template <typename Repeated>
void CopyInts(const int64_t* values, size_t count, Repeated* into) {
  if (values != nullptr) into->Add(values, values + count);
}

// Checks the pointers alone.
absl::Status CheckShard(const ks_shard& shard) {
  if (shard.fqn == nullptr || *shard.fqn == '\0') return Bad(shard, "needs a name");
  if (shard.dtype == nullptr) return Bad(shard, "needs a dtype");
  if (shard.ndim > kMaxDims) return Bad(shard, "has more than 64 dimensions");
  if (shard.ndim > 0 && shard.global_shape == nullptr) return Bad(shard, "needs a global shape");
  if (shard.data_bytes < 0) return Bad(shard, "has a negative size");
  if (shard.data == nullptr && shard.data_bytes > 0) return Bad(shard, "has no data");
  if (shard.group >= proto::kMaxGroups) return Bad(shard, "has a group above 255");
  if (shard.replica_count > 0 && shard.replica_ranks == nullptr)
    return Bad(shard, "has replicas without ranks");
  if (shard.memory != KS_HOST && shard.memory != KS_CUDA)
    return Bad(shard, "lies in no memory: `memory` is neither KS_HOST nor KS_CUDA");
  switch (shard.where) {
    case KS_BOXES:
      if (shard.boxes == nullptr && shard.box_count > 0) return Bad(shard, "has boxes that are NULL");
      for (size_t i = 0; i < shard.box_count; ++i) {
        const ks_box& box = shard.boxes[i];
        if (shard.ndim > 0 && (box.origin == nullptr || box.shape == nullptr))
          return Bad(shard, "has a box without origin or shape");
      }
      return absl::OkStatus();
    case KS_FLAT:
      if ((shard.flat_origin == nullptr) != (shard.flat_shape == nullptr)) {
        return Bad(shard, "flattens a box that has only one of origin and shape");
      }
      return absl::OkStatus();
    case KS_PLACED:
      if (shard.placement_count > 0 && shard.placements == nullptr)
        return Bad(shard, "has placements that are NULL");
      return absl::OkStatus();
  }
  return Bad(shard, "lies nowhere: `where` is none of KS_BOXES, KS_FLAT, KS_PLACED");
}

void FillBoxes(const ks_shard& shard, v1::Shard* out) {
  v1::LocalBoxes* boxes = out->mutable_boxes();
  for (size_t i = 0; i < shard.box_count; ++i) {
    const ks_box& box = shard.boxes[i];
    v1::LocalBox* local = boxes->add_boxes();
    CopyInts(box.origin, shard.ndim, local->mutable_box()->mutable_origin());
    CopyInts(box.shape, shard.ndim, local->mutable_box()->mutable_shape());
    CopyInts(box.strides_bytes, shard.ndim, local->mutable_strides_bytes());
    local->set_offset_bytes(box.offset_bytes);
  }
}

void FillFlat(const ks_shard& shard, v1::Shard* out) {
  v1::FlatRange* flat = out->mutable_flat();
  if (shard.flat_origin != nullptr) {
    CopyInts(shard.flat_origin, shard.ndim, flat->mutable_of()->mutable_origin());
    CopyInts(shard.flat_shape, shard.ndim, flat->mutable_of()->mutable_shape());
  }
  flat->set_begin(shard.flat_begin);
  flat->set_end(shard.flat_end);
}

void FillPlaced(const ks_shard& shard, v1::Shard* out) {
  v1::Placed* placed = out->mutable_placed();
  for (size_t i = 0; i < shard.placement_count; ++i) {
    v1::Placement* placement = placed->add_placements();
    placement->set_kind(static_cast<v1::Placement::Kind>(shard.placements[i].kind));
    placement->set_tensor_dim(shard.placements[i].tensor_dim);
    placement->set_split_factor(shard.placements[i].split_factor);
  }
  CopyInts(shard.local_strides_bytes, shard.ndim, placed->mutable_strides_bytes());
}

v1::Shard ToShard(const ks_shard& shard, uint32_t buffer_id) {
  v1::Shard out;
  out.mutable_meta()->set_fqn(shard.fqn);
  out.mutable_meta()->set_dtype(shard.dtype);
  CopyInts(shard.global_shape, shard.ndim, out.mutable_meta()->mutable_shape());
  out.mutable_meta()->set_component(static_cast<v1::Component>(shard.component));
  out.set_buffer_id(buffer_id);
  out.set_group(shard.group);
  out.set_module_buffer(shard.module_buffer != 0);
  if (shard.replica_count > 0) {
    out.mutable_replica_ranks()->Add(shard.replica_ranks, shard.replica_ranks + shard.replica_count);
  }
  if (shard.where == KS_BOXES) FillBoxes(shard, &out);
  if (shard.where == KS_FLAT) FillFlat(shard, &out);
  if (shard.where == KS_PLACED) FillPlaced(shard, &out);
  return out;
}

struct Span {
  int64_t offset_bytes = 0, size_bytes = 0;
};

// The longest contiguous span at the box's first element: over trailing dimensions that strides leave dense.
Span BoxSpan(const ks_box& box, size_t ndim, int64_t item_bytes) {
  Span span{.offset_bytes = box.offset_bytes, .size_bytes = item_bytes};
  for (size_t dim = ndim; dim-- > 0;) {
    if (box.shape[dim] <= 0) return Span();
    const bool dense =
        box.strides_bytes == nullptr || box.strides_bytes[dim] == span.size_bytes || box.shape[dim] == 1;
    if (!dense) break;
    if (__builtin_mul_overflow(span.size_bytes, box.shape[dim], &span.size_bytes)) return Span();
  }
  return span;
}

Span SampledSpan(const ks_shard& shard, int64_t item_bytes) {
  switch (shard.where) {
    case KS_BOXES: {
      Span largest;
      for (size_t i = 0; i < shard.box_count; ++i) {
        const Span span = BoxSpan(shard.boxes[i], shard.ndim, item_bytes);
        if (span.size_bytes > largest.size_bytes) largest = span;
      }
      return largest;
    }
    case KS_FLAT: {
      int64_t size_bytes = 0;
      const int64_t elements = shard.flat_end - std::max<int64_t>(shard.flat_begin, 0);
      if (elements < 0 || __builtin_mul_overflow(elements, item_bytes, &size_bytes)) return Span();
      return {.offset_bytes = 0, .size_bytes = size_bytes};
    }
    case KS_PLACED:
      return {.offset_bytes = 0,
              .size_bytes = shard.local_strides_bytes == nullptr ? shard.data_bytes : item_bytes};
  }
  return Span();
}

// Outside the buffer there is nothing to sample; the daemon refuses such a shard by name.
void PlanSample(const ks_shard& shard, uint32_t buffer_id, Declared* declared) {
  std::vector<SampledRun>& runs = declared->samples[shard.group];  // its group is gated, whatever is sampled
  const auto dtype = reshard::ParseDType(shard.dtype);
  if (!dtype.ok()) return;
  const Span span = SampledSpan(shard, reshard::SizeBytes(*dtype));
  if (span.size_bytes <= 0 || span.offset_bytes < 0 || span.offset_bytes > shard.data_bytes) return;
  if (span.size_bytes > shard.data_bytes - span.offset_bytes) return;
  const auto* data = static_cast<const std::byte*>(shard.data) + span.offset_bytes;
  if (shard.memory == KS_CUDA) {
    declared->device_samples[shard.group].push_back(
        SampleOf(shard.fqn, reinterpret_cast<uint64_t>(data), span.size_bytes, buffer_id));
    return;
  }
  runs.push_back({.fqn = shard.fqn, .data = data, .size_bytes = span.size_bytes});
}

}  // namespace

absl::StatusOr<Declared> DeclareShards(const ks_shard* shards, size_t count) {
  if (count > kMaxShards) return absl::InvalidArgumentError("more than 4,194,304 shards");
  Declared declared;
  std::map<std::tuple<const void*, int64_t, int32_t>, uint32_t> ids;
  std::set<uint32_t> on_host;  // groups
  for (size_t i = 0; i < count; ++i) {
    const ks_shard& shard = shards[i];
    if (absl::Status status = CheckShard(shard); !status.ok()) return status;
    const auto [known, added] =
        ids.emplace(std::make_tuple(shard.data, shard.data_bytes, shard.memory), ids.size());
    if (added) {
      v1::Buffer& buffer = declared.buffers.emplace_back();
      buffer.set_id(known->second);
      const auto address = reinterpret_cast<uint64_t>(shard.data);
      if (shard.memory == KS_CUDA) {
        buffer.mutable_device()->set_address(address);
        buffer.mutable_device()->set_size_bytes(shard.data_bytes);
      } else {
        buffer.mutable_host()->set_address(address);
        buffer.mutable_host()->set_size_bytes(shard.data_bytes);
      }
    }
    if (shard.memory != KS_CUDA) on_host.insert(shard.group);
    declared.shards.push_back(ToShard(shard, known->second));
    PlanSample(shard, known->second, &declared);
  }
  LimitPlan(&declared.samples);
  for (const auto& [group, runs] : declared.samples) {
    if (!on_host.contains(group)) declared.gpu_groups.push_back(group);
  }
  return declared;
}

}  // namespace keepstep::client
