// From parts to tensors: joins what the nodes wrote about the same tensor and refuses what does not fit
// together.

#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/checkpoint_reader.h"
#include "storage/part.h"

namespace keepstep::storage {
namespace {

bool SameTensor(const reshard::TensorMeta& a, const reshard::TensorMeta& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.component == b.component;
}

// The tensor under `name`, new or as an earlier part described it.
absl::StatusOr<reshard::StoredTensor*> Join(StoredContents& contents, const reshard::TensorMeta& meta,
                                            const std::string& name) {
  auto [place, is_new] = contents.tensors.try_emplace(name);
  reshard::StoredTensor& tensor = place->second;
  if (is_new) {
    tensor.meta = meta;
    tensor.meta.fqn = name;
  } else if (!SameTensor(tensor.meta, meta)) {
    return absl::DataLossError(absl::StrCat("parts disagree about dtype, shape or component of ", name));
  }
  return &tensor;
}

absl::Status AddPart(StoredContents& contents, uint32_t part_index) {
  const v1::Part& part = contents.parts[part_index];
  std::vector<std::vector<reshard::StoredTensor*>>
      names;  // of each tensor of the part: itself, then its aliases
  names.reserve(part.tensors_size());
  for (const v1::StoredTensor& stored : part.tensors()) {
    absl::StatusOr<reshard::TensorMeta> meta = TensorMetaFromRecord(stored.meta());
    if (!meta.ok()) return meta.status();
    std::vector<reshard::StoredTensor*>& mine = names.emplace_back();
    absl::StatusOr<reshard::StoredTensor*> tensor = Join(contents, *meta, meta->fqn);
    if (!tensor.ok()) return tensor.status();
    mine.push_back(*tensor);
    for (const std::string& alias : stored.aliases()) {
      tensor = Join(contents, *meta, alias);
      if (!tensor.ok()) return tensor.status();
      mine.push_back(*tensor);
      contents.alias_of[alias] = meta->fqn;
    }
  }
  for (const v1::Extent& extent : part.extents()) {
    if (extent.tensor() >= names.size() || extent.blob() >= static_cast<uint32_t>(part.blobs_size())) {
      return absl::DataLossError("an extent of a tensor or blob that its part does not list");
    }
    const auto index = static_cast<uint32_t>(contents.extents.size());
    contents.extents.push_back({part_index, &part.blobs(static_cast<int>(extent.blob())), &extent});
    for (reshard::StoredTensor* tensor : names[extent.tensor()]) {
      tensor->boxes.push_back({BoxFromRecord(extent.box()), index});
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StoredContents> StoredTensors(std::vector<v1::Part> parts) {
  StoredContents contents;
  contents.parts = std::move(parts);
  for (uint32_t i = 0; i < contents.parts.size(); ++i) {
    absl::Status status = AddPart(contents, i);
    if (!status.ok()) return status;
  }
  return contents;
}

}  // namespace keepstep::storage
