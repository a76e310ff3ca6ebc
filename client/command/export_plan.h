// Which tensors go into which published file. Pure.

#ifndef KEEPSTEP_CLIENT_COMMAND_EXPORT_PLAN_H_
#define KEEPSTEP_CLIENT_COMMAND_EXPORT_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/storage.pb.h"
#include "reshard/tensor.h"

namespace keepstep::client {

struct ExportTensor {
  std::string name;         // in the file: the tensor's own, or an alias of it
  std::string stored_name;  // what to read
  reshard::DType dtype = reshard::DType::kU8;
  reshard::Dims shape;
  int64_t size_bytes = 0;
};

struct ExportFile {
  std::string name;  // model.safetensors, or model-00001-of-00003.safetensors
  std::vector<ExportTensor> tensors;
};

// Tensors of `component` ("model", "optimizer", "all") in the order of their names, each file as full as
// `max_shard_bytes` allows; a larger tensor has a file of its own. Aliases of one storage are exported under
// each name. NOT_FOUND: there are none. INVALID_ARGUMENT: a dtype that safetensors lacks.
absl::StatusOr<std::vector<ExportFile>> PlanExport(absl::Span<const v1::StoredTensor> tensors,
                                                   absl::string_view component, int64_t max_shard_bytes);

// The file's header with the names as they are, as every safetensors reader expects: length, JSON, padding.
absl::StatusOr<std::string> PlainHeader(const ExportFile& file);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_EXPORT_PLAN_H_
