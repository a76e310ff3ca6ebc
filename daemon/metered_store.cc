#include "daemon/metered_store.h"

#include <chrono>
#include <utility>

namespace keepstep::daemon {
namespace {

using Clock = std::chrono::steady_clock;

void Count(Metrics& metrics, StoreCall call, Clock::time_point started, const absl::Status& status) {
  metrics.store_seconds(call).Observe(std::chrono::duration<double>(Clock::now() - started).count());
  if (status.ok() || absl::IsAlreadyExists(status) || absl::IsNotFound(status)) return;
  metrics.StoreFailed(call, absl::StatusCodeToString(status.code()));
}

const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

template <typename Work>
auto Timed(Metrics& metrics, StoreCall call, Work work) {
  const Clock::time_point started = Clock::now();
  auto result = work();
  Count(metrics, call, started, StatusOf(result));
  return result;
}

// What `done` becomes: counted once the bytes have moved.
storage::IoDone Counted(Metrics& metrics, StoreCall call, prometheus::Counter& bytes, size_t size,
                        storage::IoDone done) {
  return [&metrics, &bytes, call, size, started = Clock::now(), done = std::move(done)](absl::Status status) {
    Count(metrics, call, started, status);
    if (status.ok()) bytes.Increment(static_cast<double>(size));
    done(std::move(status));
  };
}

class MeteredWriter : public storage::BlobWriter {
 public:
  MeteredWriter(std::unique_ptr<storage::BlobWriter> wrapped, Metrics* metrics)
      : wrapped_(std::move(wrapped)), metrics_(*metrics) {}

  void Write(int64_t offset_bytes, absl::Span<const std::byte> bytes, storage::IoDone done) override {
    wrapped_->Write(
        offset_bytes, bytes,
        Counted(metrics_, StoreCall::kWrite, *metrics_.store_written_bytes, bytes.size(), std::move(done)));
  }
  absl::Status Finish(int64_t size_bytes) override {
    return Timed(metrics_, StoreCall::kFinish, [&] { return wrapped_->Finish(size_bytes); });
  }

 private:
  const std::unique_ptr<storage::BlobWriter> wrapped_;
  Metrics& metrics_;
};

class MeteredReader : public storage::BlobReader {
 public:
  MeteredReader(std::unique_ptr<storage::BlobReader> wrapped, Metrics* metrics)
      : wrapped_(std::move(wrapped)), metrics_(*metrics) {}

  int64_t size_bytes() const override { return wrapped_->size_bytes(); }
  void Read(int64_t offset_bytes, absl::Span<std::byte> into, storage::IoDone done) override {
    wrapped_->Read(
        offset_bytes, into,
        Counted(metrics_, StoreCall::kRead, *metrics_.store_read_bytes, into.size(), std::move(done)));
  }

 private:
  const std::unique_ptr<storage::BlobReader> wrapped_;
  Metrics& metrics_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<storage::BlobWriter>> MeteredStore::Create(const storage::BlobPath& path,
                                                                          int64_t size_hint_bytes) {
  auto made = Timed(*metrics_, StoreCall::kCreate, [&] { return wrapped_->Create(path, size_hint_bytes); });
  if (!made.ok()) return made.status();
  return std::make_unique<MeteredWriter>(*std::move(made), metrics_);
}

absl::StatusOr<std::unique_ptr<storage::BlobReader>> MeteredStore::Open(const storage::BlobPath& path) {
  auto opened = Timed(*metrics_, StoreCall::kOpen, [&] { return wrapped_->Open(path); });
  if (!opened.ok()) return opened.status();
  return std::make_unique<MeteredReader>(*std::move(opened), metrics_);
}

absl::Status MeteredStore::PublishExclusive(const storage::BlobPath& path, absl::string_view bytes) {
  absl::Status status =
      Timed(*metrics_, StoreCall::kPublish, [&] { return wrapped_->PublishExclusive(path, bytes); });
  if (status.ok()) metrics_->store_written_bytes->Increment(static_cast<double>(bytes.size()));
  return status;
}

absl::StatusOr<std::string> MeteredStore::ReadPublished(const storage::BlobPath& path) {
  auto bytes = Timed(*metrics_, StoreCall::kReadPublished, [&] { return wrapped_->ReadPublished(path); });
  if (bytes.ok()) metrics_->store_read_bytes->Increment(static_cast<double>(bytes->size()));
  return bytes;
}

absl::Status MeteredStore::SyncTree(const storage::BlobPath& directory) {
  return Timed(*metrics_, StoreCall::kSyncTree, [&] { return wrapped_->SyncTree(directory); });
}

absl::StatusOr<std::vector<storage::BlobInfo>> MeteredStore::List(const storage::BlobPath& directory) {
  return Timed(*metrics_, StoreCall::kList, [&] { return wrapped_->List(directory); });
}

absl::Status MeteredStore::Delete(const storage::BlobPath& path) {
  return Timed(*metrics_, StoreCall::kDelete, [&] { return wrapped_->Delete(path); });
}

absl::StatusOr<int64_t> MeteredStore::SpaceAvailable() {
  return Timed(*metrics_, StoreCall::kSpace, [&] { return wrapped_->SpaceAvailable(); });
}

}  // namespace keepstep::daemon
