#include "daemon/verify.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/digest.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kAlign = storage::kDirectAlignment;

class Verifier {
 public:
  Verifier(const StoredCheckpoint& from, const VerifyCallbacks& callbacks)
      : from_(from), callbacks_(callbacks) {
    for (const StoredBlob& blob : from.blobs()) result_.progress.bytes_total += blob.size_bytes;
  }

  absl::Status CheckBlob(storage::BlobStore& store, const StoredBlob& blob, absl::Span<std::byte> buffer,
                         Cancellation& cancel) {
    const int64_t end_bytes = result_.progress.bytes_done + blob.size_bytes;
    auto reader = OpenBlob(store, blob);
    if (!reader.ok()) {
      Report(blob, "", 0, blob.size_bytes, std::string(reader.status().message()));
    } else {
      CheckHeader(**reader, blob);
      for (const Chunk& chunk : blob.chunks) {
        if (cancel.cancelled()) return cancel.status();
        CheckChunk(**reader, blob, chunk, buffer);
        if (callbacks_.progress) callbacks_.progress(result_.progress);
      }
    }
    result_.progress.bytes_done = end_bytes;
    if (callbacks_.progress) callbacks_.progress(result_.progress);
    return absl::OkStatus();
  }

  const VerifyResult& result() const { return result_; }

 private:
  void CheckHeader(storage::BlobReader& reader, const StoredBlob& blob) {
    std::string header(blob.header_bytes, '\0');
    const auto into = absl::MakeSpan(reinterpret_cast<std::byte*>(header.data()), header.size());
    const absl::Status status = storage::ReadExactly(reader, 0, into);
    if (!status.ok()) {
      Report(blob, "", 0, blob.header_bytes, std::string(status.message()));
    } else if (storage::DigestOf(header).ToBytes() != blob.header_digest) {
      Report(blob, "", 0, blob.header_bytes, "the header does not match its digest");
    }
    result_.progress.bytes_done += blob.header_bytes;
  }

  // The image of a chunk, with an odd end of the file apart so that the rest is read directly.
  static absl::Status ReadImage(storage::BlobReader& reader, int64_t begin, int64_t end, std::byte* image) {
    const int64_t middle = end / kAlign * kAlign;
    absl::Status status =
        storage::ReadExactly(reader, begin, absl::MakeSpan(image, static_cast<size_t>(middle - begin)));
    if (!status.ok() || middle == end) return status;
    return storage::ReadExactly(reader, middle,
                                absl::MakeSpan(image + (middle - begin), static_cast<size_t>(end - middle)));
  }

  void CheckChunk(storage::BlobReader& reader, const StoredBlob& blob, const Chunk& chunk,
                  absl::Span<std::byte> buffer) {
    const int64_t image_begin = ImageBegin(chunk);
    const absl::Status status =
        ReadImage(reader, image_begin, std::min(ImageEnd(chunk), blob.size_bytes), buffer.data());
    for (const BlockPlace& block : from_.BlocksOf(blob, chunk)) {
      const std::byte* bytes = buffer.data() + (block.offset_bytes - image_begin);
      const std::string owner(from_.extent(block.extent).owner);
      if (!status.ok()) {
        Report(blob, owner, block.offset_bytes, block.size_bytes, std::string(status.message()));
      } else if (storage::DigestOf(absl::MakeConstSpan(bytes, static_cast<size_t>(block.size_bytes)))
                     .ToBytes() != std::string(block.digest)) {
        Report(blob, owner, block.offset_bytes, block.size_bytes, "the block does not match its digest");
      }
      ++result_.progress.blocks_done;
      result_.progress.bytes_done += block.size_bytes;
    }
  }

  void Report(const StoredBlob& blob, std::string owner, int64_t offset_bytes, int64_t size_bytes,
              std::string message) {
    if (++result_.damages > kMaxDamages || !callbacks_.damage) return;
    callbacks_.damage({blob.path.text(), std::move(owner), offset_bytes, size_bytes, std::move(message)});
  }

  const StoredCheckpoint& from_;
  const VerifyCallbacks& callbacks_;
  VerifyResult result_;
};

}  // namespace

absl::StatusOr<VerifyResult> VerifyCheckpoint(DataPlane& plane, storage::BlobStore& store,
                                              const StoredCheckpoint& from, const VerifyCallbacks& callbacks,
                                              Cancellation& cancel) {
  absl::StatusOr<StagingBuffer> buffer = plane.pool().Acquire(cancel);
  if (!buffer.ok()) return buffer.status();
  Verifier verifier(from, callbacks);
  for (const StoredBlob& blob : from.blobs()) {
    if (absl::Status status = verifier.CheckBlob(store, blob, buffer->span(), cancel); !status.ok())
      return status;
  }
  return verifier.result();
}

}  // namespace keepstep::daemon
