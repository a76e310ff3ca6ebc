// What makes a part believable before anything is read by it: its own numbers agree with each other.

#ifndef KEEPSTEP_STORAGE_PART_H_
#define KEEPSTEP_STORAGE_PART_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/storage.pb.h"
#include "reshard/tensor.h"

namespace keepstep::storage {

// DATA_LOSS, naming tensor or blob, unless: index < count <= kMaxParts; the attempt's name parses; blob names
// are single components; every index is in range; boxes lie in their tensors; an extent's size is that of its
// box, lies behind its blob's header, and has one block digest per block which together give its digest;
// tensors are unique.
absl::Status ValidatePart(const v1::Part& part);

// DATA_LOSS for a name, dtype, shape or component that cannot be.
absl::StatusOr<reshard::TensorMeta> TensorMetaFromRecord(const v1::TensorMeta& meta);
reshard::Box BoxFromRecord(const v1::Box& box);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_PART_H_
