#include "proto/convert.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "reshard/flat.h"

namespace keepstep::proto {
namespace {

constexpr size_t kMaxMeshNameBytes = 64;
constexpr size_t kMaxMetrics = 256;
constexpr int kMaxTags = 64;
constexpr size_t kMaxLabelBytes = 16 << 10;

absl::Status Invalid(absl::string_view fqn, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("Tensor '", fqn.substr(0, 200), "': ", what));
}

template <typename Repeated>
reshard::Dims DimsFrom(const Repeated& values) {
  return reshard::Dims(values.begin(), values.end());
}

absl::StatusOr<reshard::Component> ComponentFrom(v1::Component component) {
  switch (component) {
    case v1::COMPONENT_UNSPECIFIED:
    case v1::COMPONENT_MODEL:
      return reshard::Component::kModel;
    case v1::COMPONENT_OPTIMIZER:
      return reshard::Component::kOptimizer;
    case v1::COMPONENT_EXTRA:
      return reshard::Component::kExtra;
    default:
      return absl::InvalidArgumentError(absl::StrCat("Unknown component ", static_cast<int>(component), "."));
  }
}

absl::StatusOr<reshard::Placement> PlacementFrom(const v1::Placement& placement) {
  switch (placement.kind()) {
    case v1::Placement::REPLICATE:
      return reshard::Replicate();
    case v1::Placement::SHARD:
      return reshard::Shard(placement.tensor_dim());
    case v1::Placement::STRIDED_SHARD:
      return reshard::StridedShard(placement.tensor_dim(), placement.split_factor());
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("Unknown kind of placement ", static_cast<int>(placement.kind()), "."));
  }
}

absl::Status AddBoxes(const v1::LocalBoxes& boxes, int64_t item_bytes, reshard::TensorShard& shard) {
  if (boxes.boxes_size() > static_cast<int>(reshard::kMaxBoxesPerShard)) {
    return Invalid(shard.meta.fqn, absl::StrCat("has ", boxes.boxes_size(), " boxes; at most ",
                                                reshard::kMaxBoxesPerShard, " are taken."));
  }
  for (const v1::LocalBox& from : boxes.boxes()) {
    auto box = BoxFrom(from.box());
    if (!box.ok()) return Invalid(shard.meta.fqn, box.status().message());
    if (absl::Status status = reshard::ValidateBox(*box, shard.meta.shape); !status.ok()) {
      return Invalid(shard.meta.fqn, status.message());
    }
    reshard::LocalBox local{.box = *std::move(box), .offset_bytes = from.offset_bytes()};
    local.strides_bytes = from.strides_bytes_size() == 0
                              ? reshard::ContiguousStridesBytes(local.box.shape, item_bytes)
                              : DimsFrom(from.strides_bytes());
    shard.boxes.push_back(std::move(local));
  }
  return absl::OkStatus();
}

absl::Status AddFlat(const v1::FlatRange& flat, int64_t item_bytes, reshard::TensorShard& shard) {
  reshard::Box of = reshard::WholeBox(shard.meta.shape);
  if (flat.has_of()) {
    auto box = BoxFrom(flat.of());
    if (!box.ok()) return Invalid(shard.meta.fqn, box.status().message());
    of = *std::move(box);
  }
  absl::Status status = reshard::ValidateBox(of, shard.meta.shape);
  if (status.ok()) status = reshard::ValidateFlatRange(of, flat.begin(), flat.end());
  if (!status.ok()) return Invalid(shard.meta.fqn, status.message());
  shard.boxes = reshard::FlatShardBoxes(of, flat.begin(), flat.end(), item_bytes, flat.offset_bytes());
  return absl::OkStatus();
}

absl::Status AddPlaced(const v1::Placed& placed, const reshard::Mesh& mesh, int32_t rank, int64_t item_bytes,
                       reshard::TensorShard& shard) {
  std::vector<reshard::Placement> placements;
  for (const v1::Placement& from : placed.placements()) {
    auto placement = PlacementFrom(from);
    if (!placement.ok()) return Invalid(shard.meta.fqn, placement.status().message());
    placements.push_back(*placement);
  }
  auto held = reshard::ShardOf(mesh, placements, shard.meta.shape, rank);
  if (!held.ok()) return Invalid(shard.meta.fqn, held.status().message());
  reshard::Dims strides = placed.strides_bytes_size() == 0
                              ? reshard::ContiguousStridesBytes(held->local_shape, item_bytes)
                              : DimsFrom(placed.strides_bytes());
  if (strides.size() != held->local_shape.size()) {
    return Invalid(shard.meta.fqn, absl::StrCat("has ", strides.size(), " strides for ",
                                                held->local_shape.size(), " dimensions."));
  }
  if (absl::Status status = reshard::ValidatePlace(*held, placed.offset_bytes(), strides); !status.ok()) {
    return Invalid(shard.meta.fqn, status.message());
  }
  shard.boxes = reshard::PlaceInBuffer(*held, placed.offset_bytes(), strides);
  shard.replica_ranks = std::move(held->replica_ranks);
  return absl::OkStatus();
}

absl::Status AddReplicas(const v1::Shard& from, int32_t rank, int32_t world_size,
                         reshard::TensorShard& shard) {
  if (from.replica_ranks_size() == 0) return absl::OkStatus();
  if (from.has_placed()) {
    return Invalid(shard.meta.fqn,
                   "has replica_ranks beside placements, from which they follow; leave them out.");
  }
  std::vector<int32_t> ranks(from.replica_ranks().begin(), from.replica_ranks().end());
  std::sort(ranks.begin(), ranks.end());
  if (ranks.front() < 0 || ranks.back() >= world_size ||
      std::adjacent_find(ranks.begin(), ranks.end()) != ranks.end()) {
    return Invalid(shard.meta.fqn,
                   absl::StrCat("replica_ranks must be distinct ranks of a world of ", world_size, "."));
  }
  if (!std::binary_search(ranks.begin(), ranks.end(), rank)) {
    return Invalid(shard.meta.fqn,
                   absl::StrCat("replica_ranks must include the declaring rank, ", rank, "."));
  }
  if (ranks.size() > 1) shard.replica_ranks = std::move(ranks);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<reshard::Box> BoxFrom(const v1::Box& box) {
  if (box.origin_size() != box.shape_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("A box has ", box.origin_size(), " origins and ", box.shape_size(), " extents."));
  }
  if (box.shape_size() > static_cast<int>(reshard::kMaxDims)) {
    return absl::InvalidArgumentError(
        absl::StrCat("A box has ", box.shape_size(), " dimensions; at most 64 are taken."));
  }
  reshard::Box out{.origin = DimsFrom(box.origin()), .shape = DimsFrom(box.shape())};
  for (size_t i = 0; i < out.shape.size(); ++i) {
    if (out.origin[i] < 0 || out.shape[i] < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("Box ", reshard::ToString(out), " has a negative origin or extent."));
    }
    if (out.origin[i] > std::numeric_limits<int64_t>::max() - out.shape[i]) {
      return absl::InvalidArgumentError(
          absl::StrCat("Box ", reshard::ToString(out), " ends beyond 64 bits."));
    }
  }
  return out;
}

absl::StatusOr<reshard::TensorMeta> MetaFrom(const v1::TensorMeta& meta) {
  reshard::TensorMeta out{.fqn = meta.fqn()};
  if (absl::Status status = reshard::ValidateTensorName(out.fqn); !status.ok()) return status;
  if (meta.shape_size() > static_cast<int>(reshard::kMaxDims)) {
    return Invalid(out.fqn, absl::StrCat("has ", meta.shape_size(), " dimensions; at most 64 are taken."));
  }
  auto dtype = reshard::ParseDType(meta.dtype());
  if (!dtype.ok()) return Invalid(out.fqn, dtype.status().message());
  auto component = ComponentFrom(meta.component());
  if (!component.ok()) return Invalid(out.fqn, component.status().message());
  out.dtype = *dtype;
  out.component = *component;
  out.shape = DimsFrom(meta.shape());
  if (absl::Status status = reshard::ValidateMeta(out); !status.ok()) return status;
  return out;
}

absl::StatusOr<reshard::Mesh> MeshFrom(const v1::Mesh& mesh, int32_t world_size) {
  if (world_size < 1 || world_size > kMaxWorldSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("World size ", world_size, " is not in 1..", kMaxWorldSize, "."));
  }
  if (mesh.sizes_size() == 0) return reshard::Mesh{.names = {"rank"}, .sizes = {world_size}};
  if (mesh.sizes_size() != mesh.names_size() || mesh.sizes_size() > static_cast<int>(reshard::kMaxDims)) {
    return absl::InvalidArgumentError(
        absl::StrCat("A mesh has ", mesh.names_size(), " names and ", mesh.sizes_size(), " sizes."));
  }
  int64_t ranks = 1;
  for (int64_t size : mesh.sizes()) {
    if (size < 1 || size > world_size)
      return absl::InvalidArgumentError(absl::StrCat("A mesh dimension of size ", size, "."));
    ranks *= size;
    if (ranks > world_size) break;
  }
  if (ranks != world_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("The mesh does not have ", world_size, " ranks, the world size."));
  }
  for (const std::string& name : mesh.names()) {
    if (name.empty() || name.size() > kMaxMeshNameBytes)
      return absl::InvalidArgumentError("A mesh dimension needs a short name.");
  }
  return reshard::Mesh{.names = {mesh.names().begin(), mesh.names().end()}, .sizes = DimsFrom(mesh.sizes())};
}

absl::StatusOr<reshard::TensorShard> ShardFrom(const v1::Shard& from, const reshard::Mesh& mesh, int32_t rank,
                                               int32_t world_size) {
  auto meta = MetaFrom(from.meta());
  if (!meta.ok()) return meta.status();
  reshard::TensorShard shard{.meta = *std::move(meta), .buffer = from.buffer_id()};
  if (from.group() > kMaxGroup) {
    return Invalid(shard.meta.fqn, absl::StrCat("group ", from.group(), " is not in 0..", kMaxGroup, "."));
  }
  shard.group = from.group();
  shard.module_buffer = from.module_buffer();
  const int64_t item_bytes = reshard::SizeBytes(shard.meta.dtype);
  absl::Status status = AddReplicas(from, rank, world_size, shard);
  if (!status.ok()) return status;
  switch (from.where_case()) {
    case v1::Shard::kBoxes:
      status = AddBoxes(from.boxes(), item_bytes, shard);
      break;
    case v1::Shard::kFlat:
      status = AddFlat(from.flat(), item_bytes, shard);
      break;
    case v1::Shard::kPlaced:
      status = AddPlaced(from.placed(), mesh, rank, item_bytes, shard);
      break;
    case v1::Shard::WHERE_NOT_SET:
      status = Invalid(shard.meta.fqn, "says neither boxes, flat nor placed.");
      break;
  }
  if (!status.ok()) return status;
  return shard;
}

absl::Status CheckLabels(const google::protobuf::Map<std::string, double>& metrics,
                         const google::protobuf::RepeatedPtrField<std::string>& tags) {
  size_t bytes = 0;
  for (const auto& [name, value] : metrics) bytes += name.size();
  for (const std::string& tag : tags) bytes += tag.size();
  if (metrics.size() <= kMaxMetrics && tags.size() <= kMaxTags && bytes <= kMaxLabelBytes)
    return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      metrics.size(), " metrics and ", tags.size(), " tags of together ", bytes, " bytes; a save takes ",
      kMaxMetrics, " and ", kMaxTags, " of together ", kMaxLabelBytes, ". Keep long texts elsewhere."));
}

v1::Box ToProto(const reshard::Box& box) {
  v1::Box out;
  for (int64_t value : box.origin) out.add_origin(value);
  for (int64_t value : box.shape) out.add_shape(value);
  return out;
}

v1::TensorMeta ToProto(const reshard::TensorMeta& meta) {
  v1::TensorMeta out;
  out.set_fqn(meta.fqn);
  out.set_dtype(std::string(reshard::DTypeName(meta.dtype)));
  for (int64_t extent : meta.shape) out.add_shape(extent);
  switch (meta.component) {
    case reshard::Component::kModel:
      out.set_component(v1::COMPONENT_MODEL);
      break;
    case reshard::Component::kOptimizer:
      out.set_component(v1::COMPONENT_OPTIMIZER);
      break;
    case reshard::Component::kExtra:
      out.set_component(v1::COMPONENT_EXTRA);
      break;
  }
  return out;
}

v1::Mesh ToProto(const reshard::Mesh& mesh) {
  v1::Mesh out;
  for (const std::string& name : mesh.names) out.add_names(name);
  for (int64_t size : mesh.sizes) out.add_sizes(size);
  return out;
}

}  // namespace keepstep::proto
