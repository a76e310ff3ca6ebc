// The one place where the kinds of operation meet the verbs of a store.

#include "storage/store_op.h"

#include <utility>

#include "absl/status/statusor.h"

namespace keepstep::storage {
namespace {

StoreResult FromBytes(absl::StatusOr<std::string> bytes) {
  StoreResult result;
  result.status = bytes.status();
  if (bytes.ok()) result.bytes = *std::move(bytes);
  return result;
}

StoreResult FromList(absl::StatusOr<std::vector<BlobInfo>> blobs) {
  StoreResult result;
  result.status = blobs.status();
  if (blobs.ok()) result.blobs = *std::move(blobs);
  return result;
}

StoreResult FromStatus(absl::Status status) {
  StoreResult result;
  result.status = std::move(status);
  return result;
}

}  // namespace

StoreResult RunStoreOp(BlobStore& store, const StoreOp& op) {
  BlobPath path = BlobPath::Root();
  if (!op.path.empty()) {
    absl::StatusOr<BlobPath> parsed = BlobPath::Parse(op.path);
    if (!parsed.ok()) return FromStatus(parsed.status());
    path = *std::move(parsed);
  }
  switch (op.kind) {
    case StoreOp::Kind::kList: return FromList(store.List(path));
    case StoreOp::Kind::kRead: return FromBytes(ReadBlob(store, path));
    case StoreOp::Kind::kReadPublished: return FromBytes(store.ReadPublished(path));
    case StoreOp::Kind::kPublish: return FromStatus(store.PublishExclusive(path, op.bytes));
    case StoreOp::Kind::kSyncTree: return FromStatus(store.SyncTree(path));
    case StoreOp::Kind::kDelete: return FromStatus(store.Delete(path));
    case StoreOp::Kind::kDeleteTree: return FromStatus(DeleteTree(store, path));
    case StoreOp::Kind::kPut: return FromStatus(PutBlob(store, path, op.bytes));
  }
  return FromStatus(absl::InvalidArgumentError("unknown store operation"));
}

}  // namespace keepstep::storage
