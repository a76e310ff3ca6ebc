// Element types: those of safetensors, and those that frameworks have and safetensors lacks. The names are
// safetensors' and go to disk; the numbers of the enum do not.

#ifndef KEEPSTEP_RESHARD_DTYPE_H_
#define KEEPSTEP_RESHARD_DTYPE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace keepstep::reshard {

enum class DType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kF64,
  kI64,
  kU64,
  kC64,
  // Not in safetensors: stored there as U8, with the true dtype in the file's metadata.
  kC128,
  kF8E4M3FNUZ,
  kF8E5M2FNUZ,
  kF8E8M0,
};

inline constexpr int kNumDTypes = 20;

int64_t SizeBytes(DType dtype);

// Whether a safetensors header may name this dtype.
bool IsSafetensorsDType(DType dtype);

// "F32", "BF16", "F8_E4M3FNUZ". Static storage.
absl::string_view DTypeName(DType dtype);

// Of a name as DTypeName gives it; INVALID_ARGUMENT naming an unknown one.
absl::StatusOr<DType> ParseDType(absl::string_view name);

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_DTYPE_H_
