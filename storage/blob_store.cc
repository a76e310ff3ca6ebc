// What can be said in a store's own verbs is said here once, for every store.

#include "storage/blob_store.h"

#include <future>
#include <utility>

#include "absl/strings/str_cat.h"

namespace keepstep::storage {
namespace {

absl::Status DeleteBeneath(BlobStore& store, const BlobPath& path, bool is_directory, int depth) {
  if (is_directory) {
    if (depth >= kMaxTreeDepth) {
      return absl::FailedPreconditionError(
          absl::StrCat(path.text(), ": deeper than ", kMaxTreeDepth, " directories"));
    }
    absl::StatusOr<std::vector<BlobInfo>> children = store.List(path);
    if (!children.ok()) return children.status();
    for (const BlobInfo& child : *children) {
      absl::Status status = DeleteBeneath(store, child.path, child.is_directory, depth + 1);
      if (!status.ok()) return status;
    }
  }
  return store.Delete(path);
}

absl::Status ProbeSecondPublish(BlobStore& store, const BlobPath& scratch_path) {
  absl::Status second = store.PublishExclusive(scratch_path, "second");
  if (!second.ok() && second.code() != absl::StatusCode::kAlreadyExists) return second;
  absl::StatusOr<std::string> kept = store.ReadPublished(scratch_path);
  if (!kept.ok()) return kept.status();
  if (second.ok() || *kept != "first") {
    return absl::FailedPreconditionError(absl::StrCat(
        scratch_path.text(), ": the store accepts a second publish at one path; commits would not be safe"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadExactly(BlobReader& reader, int64_t offset_bytes, absl::Span<std::byte> into) {
  auto result = std::make_shared<std::promise<absl::Status>>();
  std::future<absl::Status> future = result->get_future();
  reader.Read(offset_bytes, into, [result](absl::Status status) { result->set_value(std::move(status)); });
  return future.get();
}

absl::Status WriteExactly(BlobWriter& writer, int64_t offset_bytes, absl::Span<const std::byte> bytes) {
  auto result = std::make_shared<std::promise<absl::Status>>();
  std::future<absl::Status> future = result->get_future();
  writer.Write(offset_bytes, bytes, [result](absl::Status status) { result->set_value(std::move(status)); });
  return future.get();
}

absl::Status PutBlob(BlobStore& store, const BlobPath& path, absl::string_view bytes) {
  const auto size_bytes = static_cast<int64_t>(bytes.size());
  absl::StatusOr<std::unique_ptr<BlobWriter>> writer = store.Create(path, size_bytes);
  if (!writer.ok()) return writer.status();
  if (!bytes.empty()) {
    const absl::Span<const std::byte> span(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size());
    if (absl::Status status = WriteExactly(**writer, 0, span); !status.ok()) return status;
  }
  return (*writer)->Finish(size_bytes);
}

absl::StatusOr<std::string> ReadBlob(BlobStore& store, const BlobPath& path) {
  absl::StatusOr<std::unique_ptr<BlobReader>> reader = store.Open(path);
  if (!reader.ok()) return reader.status();
  const int64_t size_bytes = (*reader)->size_bytes();
  if (size_bytes > kMaxPublishedBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path.text(), ": ", size_bytes, " bytes are too many to read in one piece"));
  }
  std::string bytes(static_cast<size_t>(size_bytes), '\0');
  absl::Status status = ReadExactly(
      **reader, 0, absl::Span<std::byte>(reinterpret_cast<std::byte*>(bytes.data()), bytes.size()));
  if (!status.ok()) return status;
  return bytes;
}

absl::Status DeleteTree(BlobStore& store, const BlobPath& top) {
  if (top.is_root()) return absl::InvalidArgumentError("a store's root is not deleted");
  // Only a listing tells blobs from directories; Delete settles the case of a blob.
  absl::Status status = store.Delete(top);
  if (status.code() != absl::StatusCode::kFailedPrecondition) return status;
  return DeleteBeneath(store, top, /*is_directory=*/true, 0);
}

absl::Status Probe(BlobStore& store, const BlobPath& scratch_path) {
  if (absl::Status first = store.PublishExclusive(scratch_path, "first"); !first.ok()) return first;
  absl::Status probed = ProbeSecondPublish(store, scratch_path);
  absl::Status deleted = store.Delete(scratch_path);
  return probed.ok() ? deleted : probed;
}

}  // namespace keepstep::storage
