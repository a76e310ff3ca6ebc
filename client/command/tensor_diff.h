// What differs between two checkpoints, tensor by tensor, from their digests: nothing is read.

#ifndef KEEPSTEP_CLIENT_COMMAND_TENSOR_DIFF_H_
#define KEEPSTEP_CLIENT_COMMAND_TENSOR_DIFF_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/checkpoints.pb.h"

namespace keepstep::client {

struct TensorChange {
  enum class Kind : uint8_t {
    kAdded,
    kRemoved,
    kMeta,     // another dtype or shape
    kContent,  // same dtype and shape, other bytes
    kLayout,   // stored in other boxes: digests cannot tell
  };
  Kind kind = Kind::kAdded;
  std::string fqn;
  std::string from, to;  // "F32 [2, 3]"; empty where there is none
};

struct TensorDiff {
  std::vector<TensorChange> changes;  // by name
  int64_t same = 0;
};

// `from` and `to` as QueryTensors lists them: by name, extents by box.
TensorDiff DiffTensors(const std::vector<v1::TensorInfo>& from, const std::vector<v1::TensorInfo>& to);

const char* KindName(TensorChange::Kind kind);  // "added", "removed", "dtype or shape", "content", "layout"

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_TENSOR_DIFF_H_
