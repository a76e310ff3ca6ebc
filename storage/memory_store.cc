// A map from paths to bytes; directories are entries too, so that listing and deleting them behave as on a
// file system.

#include "storage/memory_store.h"

#include <string.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace keepstep::storage {
namespace {

class MemoryWriter : public BlobWriter {
 public:
  explicit MemoryWriter(std::shared_ptr<MemoryBlob> blob) : blob_(std::move(blob)) {}

  void Write(int64_t offset_bytes, absl::Span<const std::byte> bytes, IoDone done) override {
    absl::Status status = Put(offset_bytes, bytes);
    failure_.Update(status);
    done(std::move(status));
  }

  absl::Status Finish(int64_t size_bytes) override {
    if (!failure_.ok()) return failure_;
    const bool tail_inside = tail_end_bytes_ >= 0 && tail_end_bytes_ != end_bytes_;
    if (tail_inside || size_bytes < 0 || size_bytes > end_bytes_ ||
        end_bytes_ - size_bytes >= kDirectAlignment) {
      return absl::FailedPreconditionError(
          absl::StrCat("finished with ", size_bytes, " bytes but written up to ", end_bytes_));
    }
    std::lock_guard<std::mutex> lock(blob_->mutex);
    blob_->bytes.resize(static_cast<size_t>(size_bytes));
    return absl::OkStatus();
  }

 private:
  absl::Status Put(int64_t offset_bytes, absl::Span<const std::byte> bytes) {
    if (offset_bytes < 0 || offset_bytes % kDirectAlignment != 0) {
      return absl::InvalidArgumentError(absl::StrCat("write at ", offset_bytes, ", which is not aligned"));
    }
    const auto size_bytes = static_cast<int64_t>(bytes.size());
    if (size_bytes == 0) return absl::OkStatus();
    const int64_t end_bytes = offset_bytes + size_bytes;
    end_bytes_ = std::max(end_bytes_, end_bytes);
    if (size_bytes % kDirectAlignment != 0) tail_end_bytes_ = std::max(tail_end_bytes_, end_bytes);
    std::lock_guard<std::mutex> lock(blob_->mutex);
    if (blob_->bytes.size() < static_cast<size_t>(end_bytes))
      blob_->bytes.resize(static_cast<size_t>(end_bytes));
    memcpy(blob_->bytes.data() + offset_bytes, bytes.data(), bytes.size());
    return absl::OkStatus();
  }

  const std::shared_ptr<MemoryBlob> blob_;
  absl::Status failure_;
  int64_t end_bytes_ = 0;
  int64_t tail_end_bytes_ = -1;
};

class MemoryReader : public BlobReader {
 public:
  MemoryReader(std::shared_ptr<MemoryBlob> blob, int64_t size_bytes)
      : blob_(std::move(blob)), size_bytes_(size_bytes) {}

  int64_t size_bytes() const override { return size_bytes_; }

  void Read(int64_t offset_bytes, absl::Span<std::byte> into, IoDone done) override {
    done(Get(offset_bytes, into));
  }

 private:
  absl::Status Get(int64_t offset_bytes, absl::Span<std::byte> into) {
    const auto wanted_bytes = static_cast<int64_t>(into.size());
    if (offset_bytes < 0 || offset_bytes > size_bytes_ || wanted_bytes > size_bytes_ - offset_bytes) {
      return absl::OutOfRangeError(
          absl::StrCat("read of ", wanted_bytes, " bytes at ", offset_bytes, " of ", size_bytes_));
    }
    if (into.empty()) return absl::OkStatus();
    std::lock_guard<std::mutex> lock(blob_->mutex);
    if (blob_->bytes.size() < static_cast<size_t>(offset_bytes) + into.size()) {
      return absl::DataLossError("the blob shrank after it was opened");
    }
    memcpy(into.data(), blob_->bytes.data() + offset_bytes, into.size());
    return absl::OkStatus();
  }

  const std::shared_ptr<MemoryBlob> blob_;
  const int64_t size_bytes_;
};

absl::Status NotADirectory(const BlobPath& path) {
  return absl::FailedPreconditionError(absl::StrCat(path.text(), ": is a blob, not a directory"));
}

}  // namespace

absl::Status MemoryStore::MakeDirectories(const BlobPath& directory) {
  for (BlobPath at = directory; !at.is_root(); at = at.Parent()) {
    auto found = entries_.find(at);
    if (found != entries_.end() && found->second != nullptr) return NotADirectory(at);
  }
  for (BlobPath at = directory; !at.is_root(); at = at.Parent()) entries_.emplace(at, nullptr);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<MemoryBlob>> MemoryStore::Add(const BlobPath& path) {
  if (path.is_root()) return absl::InvalidArgumentError("a blob needs a name");
  if (absl::Status status = MakeDirectories(path.Parent()); !status.ok()) return status;
  auto [entry, added] = entries_.try_emplace(path, nullptr);
  if (!added) return absl::AlreadyExistsError(absl::StrCat(path.text(), ": already there"));
  entry->second = std::make_shared<MemoryBlob>();
  return entry->second;
}

absl::StatusOr<std::shared_ptr<MemoryBlob>> MemoryStore::Find(const BlobPath& path) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = entries_.find(path);
  if (found == entries_.end()) return absl::NotFoundError(absl::StrCat(path.text(), ": not there"));
  if (found->second == nullptr)
    return absl::FailedPreconditionError(absl::StrCat(path.text(), ": is a directory"));
  return found->second;
}

absl::StatusOr<std::unique_ptr<BlobWriter>> MemoryStore::Create(const BlobPath& path,
                                                                int64_t size_hint_bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (size_hint_bytes > space_bytes_ - UsedBytes()) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path.text(), ": no space for ", size_hint_bytes, " bytes"));
  }
  absl::StatusOr<std::shared_ptr<MemoryBlob>> blob = Add(path);
  if (!blob.ok()) return blob.status();
  return std::unique_ptr<BlobWriter>(std::make_unique<MemoryWriter>(*std::move(blob)));
}

absl::StatusOr<std::unique_ptr<BlobReader>> MemoryStore::Open(const BlobPath& path) {
  absl::StatusOr<std::shared_ptr<MemoryBlob>> blob = Find(path);
  if (!blob.ok()) return blob.status();
  std::lock_guard<std::mutex> lock((*blob)->mutex);
  const auto size_bytes = static_cast<int64_t>((*blob)->bytes.size());
  return std::unique_ptr<BlobReader>(std::make_unique<MemoryReader>(*blob, size_bytes));
}

absl::Status MemoryStore::PublishExclusive(const BlobPath& path, absl::string_view bytes) {
  if (static_cast<int64_t>(bytes.size()) > kMaxPublishedBytes) {
    return absl::ResourceExhaustedError(absl::StrCat(path.text(), ": too many bytes for a record"));
  }
  std::lock_guard<std::mutex> lock(mutex_);
  absl::StatusOr<std::shared_ptr<MemoryBlob>> blob = Add(path);
  if (!blob.ok()) return blob.status();
  std::lock_guard<std::mutex> blob_lock((*blob)->mutex);
  (*blob)->bytes = std::string(bytes);
  return absl::OkStatus();
}

absl::StatusOr<std::string> MemoryStore::ReadPublished(const BlobPath& path) {
  absl::StatusOr<std::shared_ptr<MemoryBlob>> blob = Find(path);
  if (!blob.ok()) return blob.status();
  std::lock_guard<std::mutex> lock((*blob)->mutex);
  if (static_cast<int64_t>((*blob)->bytes.size()) > kMaxPublishedBytes) {
    return absl::ResourceExhaustedError(absl::StrCat(path.text(), ": too many bytes for a record"));
  }
  return (*blob)->bytes;
}

absl::Status MemoryStore::SyncTree(const BlobPath& directory) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (directory.is_root()) return absl::OkStatus();
  auto found = entries_.find(directory);
  if (found == entries_.end()) return absl::NotFoundError(absl::StrCat(directory.text(), ": not there"));
  return found->second == nullptr ? absl::OkStatus() : NotADirectory(directory);
}

absl::StatusOr<std::vector<BlobInfo>> MemoryStore::List(const BlobPath& directory) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto self = entries_.find(directory);
  if (self != entries_.end() && self->second != nullptr) return NotADirectory(directory);
  std::vector<BlobInfo> infos;
  for (const auto& [path, blob] : entries_) {
    if (path.Parent() != directory) continue;
    if (infos.size() >= kMaxListEntries) return absl::ResourceExhaustedError("too many entries to list");
    int64_t size_bytes = 0;
    if (blob != nullptr) {
      std::lock_guard<std::mutex> blob_lock(blob->mutex);
      size_bytes = static_cast<int64_t>(blob->bytes.size());
    }
    infos.push_back({path, size_bytes, blob == nullptr});
  }
  return infos;
}

absl::Status MemoryStore::Delete(const BlobPath& path) {
  if (path.is_root()) return absl::InvalidArgumentError("a store's root is not deleted");
  std::lock_guard<std::mutex> lock(mutex_);
  if (HasChildren(path)) {
    return absl::FailedPreconditionError(absl::StrCat(path.text(), ": is a directory with entries"));
  }
  entries_.erase(path);
  return absl::OkStatus();
}

bool MemoryStore::HasChildren(const BlobPath& path) const {
  const std::string prefix = path.text() + "/";
  return std::any_of(entries_.upper_bound(path), entries_.end(),
                     [&](const auto& entry) { return absl::StartsWith(entry.first.text(), prefix); });
}

int64_t MemoryStore::UsedBytes() const {
  int64_t used_bytes = 0;
  for (const auto& [path, blob] : entries_) {
    if (blob == nullptr) continue;
    std::lock_guard<std::mutex> blob_lock(blob->mutex);
    used_bytes += static_cast<int64_t>(blob->bytes.size());
  }
  return used_bytes;
}

absl::StatusOr<int64_t> MemoryStore::SpaceAvailable() {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::max<int64_t>(0, space_bytes_ - UsedBytes());
}

}  // namespace keepstep::storage
