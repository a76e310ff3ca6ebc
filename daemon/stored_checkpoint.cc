#include "daemon/stored_checkpoint.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/digest.h"
#include "storage/part.h"

namespace keepstep::daemon {

absl::StatusOr<std::shared_ptr<const StoredCheckpoint>> StoredCheckpoint::Make(
    const storage::BlobPath& attempt_directory, std::vector<v1::Part> parts, int64_t buffer_bytes) {
  absl::StatusOr<storage::StoredContents> contents = storage::StoredTensors(std::move(parts));
  if (!contents.ok()) return contents.status();
  std::shared_ptr<StoredCheckpoint> made(new StoredCheckpoint);
  made->tensors_ = std::move(contents->tensors);
  made->alias_of_ = std::move(contents->alias_of);
  for (const v1::Part& part : contents->parts) {
    if (absl::Status status = storage::ValidatePart(part); !status.ok()) return status;
  }
  made->Reserve(contents->parts);
  std::vector<uint32_t> first_blobs;
  for (const v1::Part& part : contents->parts) {
    first_blobs.push_back(static_cast<uint32_t>(made->blobs_.size()));
    if (absl::Status status = made->AddBlobs(attempt_directory, part); !status.ok()) return status;
  }
  if (absl::Status status = made->AddExtents(*contents, first_blobs); !status.ok()) return status;
  for (size_t i = 0; i < contents->parts.size(); ++i) {
    if (absl::Status status = made->AddExtras(contents->parts[i], first_blobs[i]); !status.ok())
      return status;
  }
  for (StoredBlob& blob : made->blobs_) {
    if (absl::Status status = made->CutBlob(blob, buffer_bytes); !status.ok()) return status;
  }
  made->names_.reserve(made->tensors_.size());
  for (const auto& [name, tensor] : made->tensors_) made->names_.push_back(name);
  return made;
}

void StoredCheckpoint::Reserve(const std::vector<v1::Part>& parts) {
  size_t digest_bytes = 0, extents = 0, extras = 0;
  for (const v1::Part& part : parts) {
    for (const v1::Extent& extent : part.extents()) digest_bytes += extent.block_digests().size();
    extents += part.extents_size();
    for (const v1::ExtraRecord& record : part.extras()) {
      for (const v1::ExtraItem& item : record.items()) digest_bytes += item.block_digests().size();
      extents += record.items_size();
    }
    extras += part.extras_size();
  }
  digests_.reserve(digest_bytes);
  extents_.reserve(extents);
  extras_.reserve(extras);  // extents name them
}

absl::Status StoredCheckpoint::AddBlobs(const storage::BlobPath& directory, const v1::Part& part) {
  for (const v1::Blob& blob : part.blobs()) {
    absl::StatusOr<storage::BlobPath> path = directory.Join(blob.name());
    const bool aligned = blob.header_bytes() % 4096 == 0;
    if (!path.ok() || !aligned || blob.header_bytes() < 0 || blob.size_bytes() < blob.header_bytes())
      return absl::DataLossError(
          absl::StrCat("part ", part.index(), ": blob ", blob.name(), " is impossible"));
    blobs_.push_back({*path, blob.size_bytes(), blob.header_bytes(), blob.header_digest(), {}, {}, {}});
  }
  return absl::OkStatus();
}

absl::Status StoredCheckpoint::AddExtents(const storage::StoredContents& contents,
                                          const std::vector<uint32_t>& first_blobs) {
  for (const storage::ExtentRef& ref : contents.extents) {
    const v1::Part& part = contents.parts[ref.part];
    const v1::Extent& extent = *ref.extent;
    const auto owner = tensors_.find(part.tensors(static_cast<int>(extent.tensor())).meta().fqn());
    const absl::Status status =
        AddExtent({first_blobs[ref.part] + extent.blob(), 0, extent.offset_bytes(), extent.size_bytes(),
                   extent.block_digests(), owner->first});
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status StoredCheckpoint::AddExtras(const v1::Part& part, uint32_t first_blob) {
  for (const v1::ExtraRecord& record : part.extras()) {
    StoredExtra& extra = extras_.emplace_back();
    extra.name = record.name();
    extra.rank = record.rank();
    extra.coordinate.assign(record.coordinate().begin(), record.coordinate().end());
    extra.splittable = record.splittable();
    for (const v1::ExtraItem& item : record.items()) {
      if (item.blob() >= static_cast<uint32_t>(part.blobs_size()))
        return absl::DataLossError(
            absl::StrCat("extra ", record.name(), " lies in a blob that is not listed"));
      extra.extents.push_back(static_cast<uint32_t>(extents_.size()));
      const absl::Status status = AddExtent({first_blob + item.blob(), 0, item.offset_bytes(),
                                             item.size_bytes(), item.block_digests(), extra.name});
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status StoredCheckpoint::AddExtent(const StoredExtent& extent) {
  StoredBlob& blob = blobs_[extent.blob];
  const bool inside = extent.size_bytes >= 0 && extent.offset_bytes >= blob.header_bytes &&
                      extent.offset_bytes <= blob.size_bytes &&
                      extent.size_bytes <= blob.size_bytes - extent.offset_bytes;
  if (!inside || static_cast<int64_t>(extent.block_digests.size()) !=
                     storage::BlockCount(extent.size_bytes) * static_cast<int64_t>(storage::kDigestBytes)) {
    return absl::DataLossError(
        absl::StrCat("an extent of ", extent.owner, " does not fit ", blob.path.text()));
  }
  blob.extents.push_back(static_cast<uint32_t>(extents_.size()));
  StoredExtent& kept = extents_.emplace_back(extent);
  kept.block_digests = {digests_.data() + digests_.size(), extent.block_digests.size()};
  digests_.append(extent.block_digests.data(), extent.block_digests.size());
  return absl::OkStatus();
}

absl::Status StoredCheckpoint::CutBlob(StoredBlob& blob, int64_t buffer_bytes) {
  const auto place = [this](uint32_t i) {
    return std::make_pair(extents_[i].offset_bytes, extents_[i].size_bytes);
  };
  std::sort(blob.extents.begin(), blob.extents.end(),
            [&](uint32_t a, uint32_t b) { return place(a) < place(b) || (place(a) == place(b) && a < b); });
  int64_t at = blob.header_bytes;
  std::vector<int64_t> sizes_bytes;
  int64_t blocks = 0;
  for (uint32_t i = 0; i < blob.extents.size(); ++i) {
    StoredExtent& extent = extents_[blob.extents[i]];
    if (extent.offset_bytes != at)
      return absl::DataLossError(absl::StrCat(blob.path.text(), ": a hole or an overlap at byte ", at));
    extent.place = i;
    sizes_bytes.push_back(extent.size_bytes);
    blob.first_blocks.push_back(blocks);
    blocks += storage::BlockCount(extent.size_bytes);
    at += extent.size_bytes;
  }
  if (at != blob.size_bytes)
    return absl::DataLossError(absl::StrCat(blob.path.text(), ": bytes that belong to nothing at ", at));
  blob.chunks = MakeChunks(blob.header_bytes, sizes_bytes, buffer_bytes);
  return absl::OkStatus();
}

std::vector<BlockPlace> StoredCheckpoint::BlocksOf(const StoredBlob& blob, const Chunk& chunk) const {
  std::vector<BlockPlace> blocks;
  blocks.reserve(chunk.block_count);
  uint32_t place = chunk.first_extent;
  int64_t block = chunk.first_block;
  while (blocks.size() < chunk.block_count) {
    const uint32_t index = blob.extents[place];
    const StoredExtent& extent = extents_[index];
    const int64_t within_bytes = block * storage::kBlockBytes;
    if (within_bytes >= extent.size_bytes) {
      ++place;
      block = 0;
      continue;
    }
    blocks.push_back({extent.offset_bytes + within_bytes,
                      std::min(storage::kBlockBytes, extent.size_bytes - within_bytes), index,
                      extent.block_digests.substr(block * storage::kDigestBytes, storage::kDigestBytes)});
    ++block;
  }
  return blocks;
}

const reshard::StoredTensor* StoredCheckpoint::Find(absl::string_view fqn) const {
  const auto found = tensors_.find(std::string(fqn));
  return found == tensors_.end() ? nullptr : &found->second;
}

absl::StatusOr<std::unique_ptr<storage::BlobReader>> OpenBlob(storage::BlobStore& store,
                                                              const StoredBlob& blob) {
  absl::StatusOr<std::unique_ptr<storage::BlobReader>> reader = store.Open(blob.path);
  if (absl::IsNotFound(reader.status()))
    return absl::DataLossError(absl::StrCat(blob.path.text(), " of a committed checkpoint is missing"));
  if (reader.ok() && (*reader)->size_bytes() != blob.size_bytes) {
    return absl::DataLossError(
        absl::StrCat(blob.path.text(), " has ", (*reader)->size_bytes(), " bytes, not ", blob.size_bytes));
  }
  return reader;
}

}  // namespace keepstep::daemon
