#include "storage/read_only_store.h"

#include "absl/strings/str_cat.h"

namespace keepstep::storage {
namespace {

absl::Status Refused(const BlobPath& path) {
  return absl::FailedPreconditionError(absl::StrCat(path.text(), ": opened for reading alone"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<BlobWriter>> ReadOnlyStore::Create(const BlobPath& path,
                                                                  int64_t size_hint_bytes) {
  return Refused(path);
}

absl::Status ReadOnlyStore::PublishExclusive(const BlobPath& path, absl::string_view bytes) {
  return Refused(path);
}

absl::Status ReadOnlyStore::Delete(const BlobPath& path) { return Refused(path); }

}  // namespace keepstep::storage
