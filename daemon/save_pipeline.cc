#include "daemon/save_pipeline.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "daemon/save_blob.h"
#include "daemon/save_samples.h"
#include "daemon/scheduling.h"
#include "reshard/check.h"

namespace keepstep::daemon {
namespace {

// For a port that waits for its trainer: one copies while another waits. Of GPU memory, as many copies are queued ahead
// while one thread is not yet back from its last.
constexpr int kOwnCopiers = 4;
// And so many of its chunks hold staging memory uncopied, with one ready for whoever is done: a trainer that has been
// stopped keeps its share for as long as it likes, and the pool is everybody's.
constexpr int kMostUncopied = kOwnCopiers + 2;

// Contiguous memory aligned for direct writes.
class AlignedBytes {
 public:
  explicit AlignedBytes(absl::string_view bytes)
      : data_(static_cast<std::byte*>(std::aligned_alloc(storage::kDirectAlignment, bytes.size()))),
        size_(bytes.size()) {
    KEEPSTEP_CHECK(data_ != nullptr && size_ % storage::kDirectAlignment == 0, "no memory for a header");
    std::copy_n(reinterpret_cast<const std::byte*>(bytes.data()), size_, data_);
  }
  ~AlignedBytes() { std::free(data_); }
  AlignedBytes(const AlignedBytes&) = delete;
  AlignedBytes& operator=(const AlignedBytes&) = delete;

  absl::Span<const std::byte> span() const { return {data_, size_}; }

 private:
  std::byte* const data_;
  const size_t size_;
};

// A chunk on its way. Guarded by the pipeline's mutex, but for `buffer` while a stage works on it.
struct ChunkState {
  StagingBuffer buffer;
  bool copied = false, digest_started = false, digested = false, written = false;
};

struct BlobState {
  std::unique_ptr<SaveBlob> blob;
  std::string cache_key;
  std::vector<ChunkState> chunks;
  std::mutex writer_mutex;
  std::unique_ptr<storage::BlobWriter> writer;
};

class Pipeline : public SavePipeline {
 public:
  Pipeline(DataPlane& plane, SaveSpec spec, SaveCallbacks callbacks)
      : plane_(plane),
        spec_(std::move(spec)),
        callbacks_(std::move(callbacks)),
        samples_(*spec_.shards, spec_.buffer_addresses, spec_.on_gpu) {
    if (spec_.port->waits_for_trainer()) own_copiers_ = std::make_unique<WorkerPool>(kOwnCopiers);
    driver_ = std::thread([this] { Run(); });
  }

  ~Pipeline() override {
    Cancel(absl::CancelledError("the save is over"));
    driver_.join();
  }

  void Cancel(absl::Status why) override {
    user_cancelled_.store(true);
    stop_.Cancel(std::move(why));
  }

 private:
  void Run();
  absl::Status Plan();
  absl::Status AddBlob(reshard::Component component, const reshard::BlobPlan* plan);
  void CountGroups();
  absl::Status Stream();
  void AwaitCopiers();
  void StartCopy(BlobState& blob, size_t chunk);
  void Copy(BlobState& blob, size_t chunk);
  int64_t TensorBytes(const BlobState& blob, size_t chunk) const;
  absl::Status Release(BlobState& blob, size_t chunk);
  void StartWrite(BlobState& blob, size_t chunk);
  void StartDigestLocked(BlobState& blob, size_t chunk);
  void EndStage(BlobState& blob, size_t chunk, bool ChunkState::*stage);
  void Fail(absl::string_view stage, absl::Status status);
  void EndTask();
  void AwaitTasks();
  absl::Status FinishBlob(BlobState& blob, SavedShare& share);
  void Report(SavedShare share);

  DataPlane& plane_;
  const SaveSpec spec_;
  const SaveCallbacks callbacks_;
  SaveSamples samples_;
  std::unique_ptr<WorkerPool> own_copiers_;
  StagingPool::Expectation expected_;
  Cancellation stop_;
  std::atomic<bool> user_cancelled_{false};
  std::vector<std::unique_ptr<BlobState>> blobs_;  // fixed once planned

  std::mutex callback_mutex_;                   // orders callbacks; taken before mutex_
  std::map<uint32_t, int64_t> uncopied_bytes_;  // by group
  size_t unreleased_groups_ = 0;                // of those with bytes
  int64_t copied_bytes_ = 0;

  std::mutex mutex_;
  std::condition_variable idle_, uncopied_fell_;
  int64_t tasks_ = 0;         // copies, writes, digests that have not ended
  int uncopied_ = 0;          // chunks that hold a buffer, and whose copy has not ended
  std::string failed_stage_;  // of the first failure
  absl::Status failure_;

  std::thread driver_;  // last: it uses all above
};

void Pipeline::Run() {
  WorkInBackground();  // its rank has its answer by now
  absl::Status status = Plan();
  if (!status.ok()) Fail("plan", status);
  if (status.ok()) {
    status = samples_.Take(*spec_.port, stop_);
    if (!status.ok()) Fail("copy", status);
  }
  if (status.ok()) status = Stream();
  AwaitTasks();
  SavedShare share{spec_.shards->rank, {}, spec_.shards, spec_.plan};
  for (const auto& blob : blobs_) {
    if (status.ok() && !stop_.cancelled()) status = FinishBlob(*blob, share);
  }
  blobs_.clear();  // gives staging back and abandons files that were not finished
  if (stop_.cancelled()) plane_.cache().Invalidate(spec_.cache_prefix + spec_.directory.text() + "/");
  Report(std::move(share));
}

absl::Status Pipeline::Plan() {
  for (const reshard::BlobPlan& plan : spec_.plan->blobs) {
    if (plan.rank != spec_.shards->rank) continue;
    if (absl::Status status = AddBlob(plan.component, &plan); !status.ok()) return status;
  }
  const bool extra_blob =
      std::any_of(spec_.plan->blobs.begin(), spec_.plan->blobs.end(), [&](const auto& plan) {
        return plan.rank == spec_.shards->rank && plan.component == reshard::Component::kExtra;
      });
  if (!extra_blob && !spec_.extras.empty()) {
    if (absl::Status status = AddBlob(reshard::Component::kExtra, nullptr); !status.ok()) return status;
  }
  CountGroups();
  return absl::OkStatus();
}

absl::Status Pipeline::AddBlob(reshard::Component component, const reshard::BlobPlan* plan) {
  const bool with_extras = component == reshard::Component::kExtra && !spec_.extras.empty();
  auto blob = SaveBlob::Make(spec_, component, plan, with_extras, plane_.pool().buffer_bytes());
  if (!blob.ok()) return blob.status();
  auto& state = *blobs_.emplace_back(std::make_unique<BlobState>());
  state.blob = *std::move(blob);
  state.chunks = std::vector<ChunkState>(state.blob->chunks().size());
  return absl::OkStatus();
}

// Groups without bytes to copy are released here.
void Pipeline::CountGroups() {
  std::lock_guard<std::mutex> order(callback_mutex_);
  for (const reshard::TensorShard& shard : spec_.shards->shards) uncopied_bytes_.try_emplace(shard.group, 0);
  for (const auto& state : blobs_) {
    state->blob->ForEachGroup(0, state->blob->size_bytes(), [&](uint32_t group, int64_t bytes) {
      uncopied_bytes_[group] += bytes;
    });
  }
  for (const auto& [group, bytes] : uncopied_bytes_) {
    if (bytes > 0) {
      ++unreleased_groups_;
    } else if (callbacks_.group_copied) {
      callbacks_.group_copied(group);
    }
  }
  if (unreleased_groups_ == 0 && callbacks_.copied) callbacks_.copied();
}

absl::Status Pipeline::Stream() {
  std::vector<std::pair<BlobState*, size_t>> order;
  for (const auto& state : blobs_) {
    BlobState& blob = *state;
    absl::StatusOr<storage::BlobPath> path = spec_.directory.Join(blob.blob->name());
    if (!path.ok()) {
      Fail("plan", path.status());
      return path.status();
    }
    blob.cache_key = spec_.cache_prefix + path->text();
    auto writer = spec_.store->Create(*path, blob.blob->size_bytes());
    if (!writer.ok()) {
      Fail("write", writer.status());
      return writer.status();
    }
    blob.writer = *std::move(writer);
    for (size_t chunk = 0; chunk < blob.chunks.size(); ++chunk) order.emplace_back(&blob, chunk);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return a.first->blob->FirstGroup(a.second) < b.first->blob->FirstGroup(b.second);
  });
  expected_ = plane_.pool().Expect("save " + spec_.cache_prefix + spec_.directory.text(),
                                   static_cast<int64_t>(order.size()));
  for (const auto& [blob, chunk] : order) {
    AwaitCopiers();
    absl::StatusOr<StagingBuffer> buffer = plane_.pool().Acquire(stop_, spec_.port->node());
    if (!buffer.ok()) {
      Fail("copy", buffer.status());
      return buffer.status();
    }
    blob->chunks[chunk].buffer = *std::move(buffer);
    StartCopy(*blob, chunk);
  }
  return absl::OkStatus();
}

// A save that is cancelled ends its copies, so this returns soon.
void Pipeline::AwaitCopiers() {
  if (own_copiers_ == nullptr) return;
  std::unique_lock<std::mutex> lock(mutex_);
  uncopied_fell_.wait(lock, [this] { return uncopied_ < kMostUncopied; });
}

void Pipeline::StartCopy(BlobState& blob, size_t chunk) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ++tasks_;
    ++uncopied_;
  }
  WorkerPool& copiers = own_copiers_ != nullptr ? *own_copiers_ : plane_.workers();
  copiers.Submit(Urgency::kCopy, [this, &blob, chunk] {
    Copy(blob, chunk);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      --uncopied_;
      uncopied_fell_.notify_one();
    }
    EndTask();
  });
}

void Pipeline::Copy(BlobState& blob, size_t chunk) {
  std::byte* image = blob.chunks[chunk].buffer.data();
  const StageTimer timer(plane_.meters().copy);
  absl::Status status =
      stop_.cancelled() ? stop_.status() : blob.blob->Copy(chunk, image, *spec_.port, stop_);
  if (!status.ok()) {
    Fail("copy", std::move(status));
    return;
  }
  timer.Done(TensorBytes(blob, chunk));
  if (status = Release(blob, chunk); !status.ok()) {
    Fail("copy", std::move(status));
    return;
  }
  StartWrite(blob, chunk);
  std::lock_guard<std::mutex> lock(mutex_);
  blob.chunks[chunk].copied = true;
  StartDigestLocked(blob, chunk);
  if (chunk + 1 < blob.chunks.size()) StartDigestLocked(blob, chunk + 1);
}

int64_t Pipeline::TensorBytes(const BlobState& blob, size_t chunk) const {
  int64_t total_bytes = 0;
  blob.blob->ForEachGroup(blob.blob->WriteBegin(chunk), blob.blob->WriteBegin(chunk + 1),
                          [&](uint32_t group, int64_t bytes) { total_bytes += bytes; });
  return total_bytes;
}

// Opens the gates that wait for this chunk alone. Samples are read without the lock: it takes a GPU a moment.
absl::Status Pipeline::Release(BlobState& blob, size_t chunk) {
  std::vector<uint32_t> complete;
  {
    std::lock_guard<std::mutex> order(callback_mutex_);
    const int64_t before_bytes = copied_bytes_;
    const auto count = [&](uint32_t group, int64_t bytes) {
      copied_bytes_ += bytes;
      if ((uncopied_bytes_[group] -= bytes) == 0) complete.push_back(group);
    };
    blob.blob->ForEachGroup(blob.blob->WriteBegin(chunk), blob.blob->WriteBegin(chunk + 1), count);
    if (before_bytes < copied_bytes_ && callbacks_.progress) callbacks_.progress(copied_bytes_);
  }
  for (const uint32_t group : complete) {
    if (absl::Status status = samples_.Check(group, *spec_.port, stop_); !status.ok()) return status;
    std::lock_guard<std::mutex> order(callback_mutex_);
    if (callbacks_.group_copied) callbacks_.group_copied(group);
    if (--unreleased_groups_ == 0 && callbacks_.copied) callbacks_.copied();
  }
  return absl::OkStatus();
}

void Pipeline::StartWrite(BlobState& blob, size_t chunk) {
  const int64_t begin = blob.blob->WriteBegin(chunk);
  const int64_t end = blob.blob->WriteBegin(chunk + 1);
  const std::byte* at = blob.chunks[chunk].buffer.data() + (begin - ImageBegin(blob.blob->chunks()[chunk]));
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ++tasks_;
  }
  auto done = [this, &blob, chunk, bytes = end - begin](absl::Status status) {
    if (!status.ok()) {
      Fail("write", std::move(status));
    } else if (callbacks_.written) {
      callbacks_.written(bytes);
    }
    EndStage(blob, chunk, &ChunkState::written);
  };
  if (begin == end) {
    done(absl::OkStatus());
    return;
  }
  std::lock_guard<std::mutex> writing(blob.writer_mutex);
  blob.writer->Write(begin, absl::MakeConstSpan(at, static_cast<size_t>(end - begin)), done);
}

// Once the chunk and the one before are copied.
void Pipeline::StartDigestLocked(BlobState& blob, size_t chunk) {
  ChunkState& state = blob.chunks[chunk];
  if (state.digest_started || !state.copied || (chunk > 0 && !blob.chunks[chunk - 1].copied)) return;
  state.digest_started = true;
  ++tasks_;
  plane_.workers().Submit(Urgency::kDigest, [this, &blob, chunk] {
    if (!stop_.cancelled()) {
      const StageTimer timer(plane_.meters().digest);
      blob.blob->Digest(chunk, blob.chunks[chunk].buffer.data());
      timer.Done(TensorBytes(blob, chunk));
    }
    EndStage(blob, chunk, &ChunkState::digested);
  });
}

// Digest and write run side by side; the later one lets the buffer go, before the task ends.
void Pipeline::EndStage(BlobState& blob, size_t chunk, bool ChunkState::*stage) {
  StagingBuffer buffer;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ChunkState& state = blob.chunks[chunk];
    state.*stage = true;
    if (state.digested && state.written) buffer = std::move(state.buffer);
  }
  if (buffer && !stop_.cancelled()) {
    const Chunk& place = blob.blob->chunks()[chunk];
    plane_.cache().Keep({blob.cache_key, place.begin}, place.block_count, std::move(buffer));
  }
  buffer = StagingBuffer();
  EndTask();
}

void Pipeline::Fail(absl::string_view stage, absl::Status status) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (failure_.ok()) {
      failure_ = status;
      failed_stage_ = std::string(stage);
    }
  }
  stop_.Cancel(std::move(status));
}

void Pipeline::EndTask() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (--tasks_ == 0) idle_.notify_all();
}

void Pipeline::AwaitTasks() {
  std::unique_lock<std::mutex> lock(mutex_);
  idle_.wait(lock, [this] { return tasks_ == 0; });
}

absl::Status Pipeline::FinishBlob(BlobState& blob, SavedShare& share) {
  absl::StatusOr<std::string> header = blob.blob->Header();
  if (!header.ok()) {
    Fail("plan", header.status());
    return header.status();
  }
  {
    const AlignedBytes bytes(*header);
    if (absl::Status status = storage::WriteExactly(*blob.writer, 0, bytes.span()); !status.ok()) {
      Fail("write", status);
      return status;
    }
  }
  if (absl::Status status = blob.writer->Finish(blob.blob->size_bytes()); !status.ok()) {
    Fail("flush", status);
    return status;
  }
  share.blobs.push_back(blob.blob->TakeResult(*header));
  return absl::OkStatus();
}

void Pipeline::Report(SavedShare share) {
  absl::Status failure;
  std::string stage;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    failure = failure_;
    stage = failed_stage_;
  }
  if (!user_cancelled_.load()) {
    if (!failure.ok()) {
      if (callbacks_.failed) callbacks_.failed(stage, failure);
    } else if (callbacks_.flushed) {
      callbacks_.flushed(std::move(share));
    }
  }
  if (callbacks_.ended) callbacks_.ended();
}

}  // namespace

std::unique_ptr<SavePipeline> StartSave(DataPlane& plane, SaveSpec spec, SaveCallbacks callbacks) {
  return std::make_unique<Pipeline>(plane, std::move(spec), std::move(callbacks));
}

}  // namespace keepstep::daemon
