// Wire messages to geometry and back: the one place where boxes, shards and meshes of a request are checked
// for form.
//
// What comes out is well-formed (dimensions agree, exactly one description of where a shard lies, ranks in
// the world); that it fits its tensor and its buffer is for reshard::ValidateShard, which needs the buffer.
// Errors are INVALID_ARGUMENT and name the tensor. Pure; thread-safe.

#ifndef KEEPSTEP_PROTO_CONVERT_H_
#define KEEPSTEP_PROTO_CONVERT_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "proto/types.pb.h"
#include "reshard/box.h"
#include "reshard/layout.h"
#include "reshard/tensor.h"

namespace keepstep::proto {

inline constexpr int32_t kMaxWorldSize = 16384;
inline constexpr uint32_t kMaxGroup = 255;

absl::StatusOr<reshard::Box> BoxFrom(const v1::Box& box);

// Name, dtype and shape are valid, the size in bytes fits in int64.
absl::StatusOr<reshard::TensorMeta> MetaFrom(const v1::TensorMeta& meta);

// A mesh whose product is `world_size`; absent (no dimensions): one dimension "rank".
absl::StatusOr<reshard::Mesh> MeshFrom(const v1::Mesh& mesh, int32_t world_size);

// One rank's shard; `placed` and `flat` become boxes. `buffer` is the message's buffer_id.
absl::StatusOr<reshard::TensorShard> ShardFrom(const v1::Shard& shard, const reshard::Mesh& mesh,
                                               int32_t rank, int32_t world_size);

// What a save says of itself beside its tensors: at most 256 metrics and 64 tags, 16 KiB of names and tags
// together, because every listing of the job carries them. RESOURCE_EXHAUSTED.
absl::Status CheckLabels(const google::protobuf::Map<std::string, double>& metrics,
                         const google::protobuf::RepeatedPtrField<std::string>& tags);

v1::Box ToProto(const reshard::Box& box);
v1::TensorMeta ToProto(const reshard::TensorMeta& meta);
v1::Mesh ToProto(const reshard::Mesh& mesh);

}  // namespace keepstep::proto

#endif  // KEEPSTEP_PROTO_CONVERT_H_
