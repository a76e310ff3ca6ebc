// A part passed its record's digest, so what is wrong here was wrong when it was written, or was forged.
// Readers index by these numbers, so each is checked once, here.

#include "storage/part.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "storage/attempt.h"
#include "storage/blob_path.h"
#include "storage/digest.h"

namespace keepstep::storage {
namespace {

absl::Status Bad(absl::string_view what, absl::string_view why) {
  return absl::DataLossError(absl::StrCat("part record: ", what, ": ", why));
}

bool IsLeaf(const std::string& name) {
  absl::StatusOr<BlobPath> path = BlobPath::Parse(name);
  return path.ok() && path->Parent().is_root();
}

// [offset, offset + size) lies behind the header of its blob.
bool LiesIn(const v1::Blob& blob, int64_t offset_bytes, int64_t size_bytes) {
  return offset_bytes >= blob.header_bytes() && size_bytes >= 0 && offset_bytes <= blob.size_bytes() &&
         size_bytes <= blob.size_bytes() - offset_bytes;
}

bool DigestsAgree(const std::string& digest, const std::string& block_digests, int64_t size_bytes) {
  return block_digests.size() == static_cast<uint64_t>(BlockCount(size_bytes)) * kDigestBytes &&
         DigestOf(absl::string_view(block_digests)).ToBytes() == digest;
}

absl::Status ValidateBlobs(const v1::Part& part) {
  absl::flat_hash_set<std::string> names;
  for (const v1::Blob& blob : part.blobs()) {
    if (!IsLeaf(blob.name())) return Bad("blob", "its name is not a file name");
    if (!names.insert(blob.name()).second) return Bad(blob.name(), "listed twice");
    if (blob.header_bytes() < 0 || blob.size_bytes() < blob.header_bytes())
      return Bad(blob.name(), "impossible size");
    if (blob.header_digest().size() != kDigestBytes) return Bad(blob.name(), "malformed digest");
  }
  return absl::OkStatus();
}

absl::Status ValidateExtent(const v1::Part& part, const v1::Extent& extent,
                            const std::vector<reshard::TensorMeta>& metas) {
  if (extent.tensor() >= metas.size()) return Bad("extent", "of a tensor that is not listed");
  const reshard::TensorMeta& meta = metas[extent.tensor()];
  if (extent.blob() >= static_cast<uint32_t>(part.blobs_size()))
    return Bad(meta.fqn, "in a blob that is not listed");
  const reshard::Box box = BoxFromRecord(extent.box());
  if (!reshard::ValidateBox(box, meta.shape).ok()) return Bad(meta.fqn, "a box outside its shape");
  if (extent.size_bytes() != reshard::NumElements(box) * reshard::SizeBytes(meta.dtype)) {
    return Bad(meta.fqn, "an extent that is not as long as its box");
  }
  if (!LiesIn(part.blobs(static_cast<int>(extent.blob())), extent.offset_bytes(), extent.size_bytes())) {
    return Bad(meta.fqn, "an extent outside its blob");
  }
  if (!DigestsAgree(extent.digest(), extent.block_digests(), extent.size_bytes())) {
    return Bad(meta.fqn, "digests that do not agree");
  }
  return absl::OkStatus();
}

absl::Status ValidateTensors(const v1::Part& part) {
  std::vector<reshard::TensorMeta> metas;
  metas.reserve(part.tensors_size());
  absl::flat_hash_set<std::string> names;
  for (const v1::StoredTensor& tensor : part.tensors()) {
    absl::StatusOr<reshard::TensorMeta> meta = TensorMetaFromRecord(tensor.meta());
    if (!meta.ok()) return meta.status();
    if (!names.insert(meta->fqn).second) return Bad(meta->fqn, "listed twice");
    for (const std::string& alias : tensor.aliases()) {
      if (!reshard::ValidateTensorName(alias).ok()) return Bad(meta->fqn, "an alias that is no name");
      if (!names.insert(alias).second) return Bad(alias, "listed twice");
    }
    metas.push_back(*std::move(meta));
  }
  for (const v1::Extent& extent : part.extents()) {
    absl::Status status = ValidateExtent(part, extent, metas);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ValidateExtras(const v1::Part& part) {
  for (const v1::ExtraRecord& extra : part.extras()) {
    if (!extra.splittable() && extra.items_size() != 1)
      return Bad(extra.name(), "opaque state of several items");
    for (const v1::ExtraItem& item : extra.items()) {
      if (item.blob() >= static_cast<uint32_t>(part.blobs_size()) ||
          !LiesIn(part.blobs(static_cast<int>(item.blob())), item.offset_bytes(), item.size_bytes())) {
        return Bad(extra.name(), "an item outside its blob");
      }
      if (!DigestsAgree(item.digest(), item.block_digests(), item.size_bytes())) {
        return Bad(extra.name(), "digests that do not agree");
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

reshard::Box BoxFromRecord(const v1::Box& box) {
  return reshard::Box{reshard::Dims(box.origin().begin(), box.origin().end()),
                      reshard::Dims(box.shape().begin(), box.shape().end())};
}

absl::StatusOr<reshard::TensorMeta> TensorMetaFromRecord(const v1::TensorMeta& meta) {
  reshard::TensorMeta result;
  result.fqn = meta.fqn();
  absl::StatusOr<reshard::DType> dtype = reshard::ParseDType(meta.dtype());
  if (!dtype.ok()) return Bad(meta.fqn(), dtype.status().message());
  result.dtype = *dtype;
  result.shape.assign(meta.shape().begin(), meta.shape().end());
  switch (meta.component()) {
    case v1::COMPONENT_UNSPECIFIED:
    case v1::COMPONENT_MODEL: result.component = reshard::Component::kModel; break;
    case v1::COMPONENT_OPTIMIZER: result.component = reshard::Component::kOptimizer; break;
    case v1::COMPONENT_EXTRA: result.component = reshard::Component::kExtra; break;
    default: return Bad(meta.fqn(), "unknown component");
  }
  absl::Status status = reshard::ValidateMeta(result);
  if (!status.ok()) return Bad("tensor", status.message());
  return result;
}

absl::Status ValidatePart(const v1::Part& part) {
  if (part.count() == 0 || part.count() > kMaxParts || part.index() >= part.count()) {
    return Bad("index", absl::StrCat(part.index(), " of ", part.count()));
  }
  if (!ParseAttempt(part.attempt())) return Bad("attempt", "malformed name");
  absl::Status status = ValidateBlobs(part);
  if (status.ok()) status = ValidateTensors(part);
  if (status.ok()) status = ValidateExtras(part);
  return status;
}

}  // namespace keepstep::storage
