#include "client/command/export_plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace keepstep::client {
namespace {

constexpr int64_t kPadding = 8;  // keeps the data aligned for readers that map the file
constexpr size_t kMaxHeaderBytes = 100'000'000;

bool Wanted(v1::Component component, absl::string_view which) {
  if (component == v1::COMPONENT_EXTRA) return false;
  const bool optimizer = component == v1::COMPONENT_OPTIMIZER;
  return which == "all" || optimizer == (which == "optimizer");
}

absl::StatusOr<ExportTensor> Describe(const v1::TensorMeta& meta) {
  ExportTensor tensor;
  tensor.name = tensor.stored_name = meta.fqn();
  auto dtype = reshard::ParseDType(meta.dtype());
  if (!dtype.ok()) return dtype.status();
  if (!reshard::IsSafetensorsDType(*dtype)) {
    return absl::InvalidArgumentError(
        absl::StrCat(meta.fqn(), " is ", meta.dtype(), ", which safetensors cannot name; export without it"));
  }
  tensor.dtype = *dtype;
  tensor.shape.assign(meta.shape().begin(), meta.shape().end());
  tensor.size_bytes = reshard::NumElements(tensor.shape) * reshard::SizeBytes(*dtype);
  return tensor;
}

}  // namespace

absl::StatusOr<std::vector<ExportFile>> PlanExport(absl::Span<const v1::StoredTensor> tensors,
                                                   absl::string_view component, int64_t max_shard_bytes) {
  std::vector<ExportTensor> all;
  for (const v1::StoredTensor& stored : tensors) {
    if (!Wanted(stored.meta().component(), component)) continue;
    auto tensor = Describe(stored.meta());
    if (!tensor.ok()) return tensor.status();
    all.push_back(*tensor);
    for (const std::string& alias : stored.aliases()) {
      tensor->name = alias;
      all.push_back(*tensor);
    }
  }
  if (all.empty()) {
    return absl::NotFoundError(absl::StrCat("the checkpoint has no tensors of component '", component, "'"));
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  std::vector<ExportFile> files(1);
  int64_t size_bytes = 0;
  for (ExportTensor& tensor : all) {
    if (size_bytes > 0 && size_bytes + tensor.size_bytes > max_shard_bytes) {
      files.emplace_back();
      size_bytes = 0;
    }
    size_bytes += tensor.size_bytes;
    files.back().tensors.push_back(std::move(tensor));
  }
  for (size_t i = 0; i < files.size(); ++i) {
    files[i].name = files.size() == 1
                        ? "model.safetensors"
                        : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, files.size());
  }
  return files;
}

absl::StatusOr<std::string> PlainHeader(const ExportFile& file) {
  nlohmann::ordered_json header;
  header["__metadata__"]["format"] = "pt";  // what readers of published models ask for
  int64_t begin = 0;
  for (const ExportTensor& tensor : file.tensors) {
    header[tensor.name] = {{"dtype", std::string(reshard::DTypeName(tensor.dtype))},
                           {"shape", std::vector<int64_t>(tensor.shape.begin(), tensor.shape.end())},
                           {"data_offsets", {begin, begin + tensor.size_bytes}}};
    begin += tensor.size_bytes;
  }
  std::string json = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  json.append((kPadding - json.size() % kPadding) % kPadding, ' ');
  if (json.size() > kMaxHeaderBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(file.name, "'s header exceeds 100 MB; use smaller shards"));
  }
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[i] = static_cast<char>(json.size() >> (8 * i));
  return out + json;
}

}  // namespace keepstep::client
