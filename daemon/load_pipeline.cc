#include "daemon/load_pipeline.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/box_mover.h"
#include "daemon/chunk_fill.h"
#include "daemon/dtype_convert.h"
#include "daemon/load_work.h"
#include "reshard/dtype.h"
#include "reshard/strided.h"

namespace keepstep::daemon {
namespace {

// Of one rank: so many that a disk has reads to do while other chunks are verified and delivered.
constexpr int kChunksInFlight = 16;
constexpr int kOwnCopiers = 4;  // for a port that waits for its trainer: some copy while others wait

class Loader {
 public:
  Loader(DataPlane& plane, const LoadSpec& spec)
      : plane_(plane), spec_(spec), readers_(spec.from->blobs().size()) {
    if (spec.port->waits_for_trainer()) own_copiers_ = std::make_unique<WorkerPool>(kOwnCopiers);
  }

  absl::StatusOr<LoadStats> Run(Cancellation& cancel);

 private:
  // One chunk on its way; kept alive by the tasks that use it.
  struct ChunkLoad {
    ChunkWork work;
    BlockCache::Pin pin;
    std::vector<BlockPlace> blocks;
    FillPlan fill;
    std::atomic<int> reads_left{0};
    std::shared_ptr<storage::BlobReader> reader;
  };
  using ChunkPtr = std::shared_ptr<ChunkLoad>;

  const StoredBlob& BlobOf(const ChunkLoad& load) const { return spec_.from->blobs()[load.work.blob]; }
  const Chunk& PlaceOf(const ChunkLoad& load) const { return BlobOf(load).chunks[load.work.chunk]; }

  absl::Status CheckSpec();
  absl::Status Start(ChunkWork work);
  void Fill(ChunkPtr load);
  void Count(ChunkLoad& load, const std::vector<bool>& verified);
  void ReadBlocks(ChunkPtr load);
  void Verify(ChunkPtr load);
  void StartDelivery(ChunkPtr load);
  absl::Status Deliver(ChunkLoad& load);
  absl::Status DeliverConverted(BoxMover& mover, const Delivery& delivery, const reshard::LocalBox& packed,
                                std::byte* image);
  absl::StatusOr<std::shared_ptr<storage::BlobReader>> ReaderOf(uint32_t blob);
  reshard::DType LocalDtype(uint32_t shard) const {
    return spec_.local_dtypes.empty() ? spec_.wanted[shard].meta.dtype : spec_.local_dtypes[shard];
  }
  int64_t LocalBytes(const Delivery& delivery) const {
    return reshard::NumElements(delivery.region) * reshard::SizeBytes(LocalDtype(delivery.shard));
  }
  void Fail(absl::Status status);
  void End(ChunkPtr load);

  DataPlane& plane_;
  const LoadSpec& spec_;
  std::unique_ptr<WorkerPool> own_copiers_;
  StagingPool::Expectation expected_;
  Cancellation stop_;
  int64_t total_bytes_ = 0;

  std::mutex readers_mutex_;
  std::vector<std::shared_ptr<storage::BlobReader>> readers_;  // by blob; opened when a read is needed

  std::mutex mutex_;
  std::condition_variable ended_;
  int in_flight_ = 0;
  absl::Status failure_;
  LoadStats stats_;
};

absl::StatusOr<LoadStats> Loader::Run(Cancellation& cancel) {
  if (absl::Status status = CheckSpec(); !status.ok()) return status;
  std::vector<ChunkWork> works = SplitByChunk(*spec_.from, *spec_.plan, spec_.wanted);
  for (const ChunkWork& work : works) {
    for (const Delivery& delivery : work.deliveries) total_bytes_ += LocalBytes(delivery);
  }
  if (!works.empty()) {
    const std::string directory = spec_.from->blobs()[works.front().blob].path.Parent().text();
    int64_t chunks = 0;  // of the checkpoint: what ranks read of the same chunk they share
    for (const StoredBlob& blob : spec_.from->blobs()) chunks += static_cast<int64_t>(blob.chunks.size());
    expected_ = plane_.pool().Expect("load " + spec_.cache_prefix + directory, static_cast<int64_t>(works.size()), chunks);
  }
  {
    Cancellation::Hook hook(cancel, [this] { stop_.Cancel(absl::CancelledError("the load was cancelled")); });
    for (ChunkWork& work : works) {
      if (absl::Status status = Start(std::move(work)); !status.ok()) {
        Fail(std::move(status));
        break;
      }
    }
    std::unique_lock<std::mutex> lock(mutex_);
    ended_.wait(lock, [this] { return in_flight_ == 0; });
  }
  own_copiers_.reset();
  if (cancel.cancelled()) return cancel.status();
  if (!failure_.ok()) return failure_;
  return stats_;
}

absl::Status Loader::CheckSpec() {
  for (uint32_t shard = 0; shard < spec_.wanted.size(); ++shard) {
    const reshard::TensorMeta& meta = spec_.wanted[shard].meta;
    if (absl::Status status = CheckConversion(meta.dtype, LocalDtype(shard)); !status.ok())
      return absl::InvalidArgumentError(absl::StrCat(meta.fqn, ": ", status.message()));
  }
  return absl::OkStatus();
}

absl::Status Loader::Start(ChunkWork work) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    ended_.wait(lock, [this] { return in_flight_ < kChunksInFlight; });
  }
  if (stop_.cancelled()) return stop_.status();
  auto load = std::make_shared<ChunkLoad>();
  load->work = std::move(work);
  const StoredBlob& blob = BlobOf(*load);
  const Chunk& chunk = PlaceOf(*load);
  auto pin = plane_.cache().Get({spec_.cache_prefix + blob.path.text(), chunk.begin}, chunk.block_count, stop_,
                                spec_.port->node());
  if (!pin.ok()) return pin.status();
  load->pin = *std::move(pin);
  load->blocks = spec_.from->BlocksOf(blob, chunk);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ++in_flight_;
  }
  plane_.workers().Submit(Urgency::kDigest, [this, load]() mutable { Fill(std::move(load)); });
  return absl::OkStatus();
}

// On a worker. Delivers what is there, or reads what is absent, or waits for the load that reads it now.
void Loader::Fill(ChunkPtr load) {
  const auto again = [this, load] {
    plane_.workers().Submit(Urgency::kDigest, [this, load]() mutable { Fill(std::move(load)); });
  };
  if (!load->pin.TryFill(again)) return;
  const std::vector<bool> verified = load->pin.verified();
  Count(*load, verified);
  load->fill = PlanFill(BlobOf(*load), load->blocks, load->work.needed, verified);
  if (load->fill.blocks.empty() || stop_.cancelled()) {
    load->pin.EndFill({});
    StartDelivery(std::move(load));
    return;
  }
  ReadBlocks(std::move(load));
}

// When the chunk is ours to fill: what others have read until then is warm too.
void Loader::Count(ChunkLoad& load, const std::vector<bool>& verified) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (size_t i = 0; i < load.blocks.size(); ++i) {
    if (!load.work.needed[i]) continue;
    stats_.unique_bytes += load.blocks[i].size_bytes;
    if (verified[i]) stats_.warm_bytes += load.blocks[i].size_bytes;
  }
}

void Loader::ReadBlocks(ChunkPtr load) {
  absl::StatusOr<std::shared_ptr<storage::BlobReader>> reader = ReaderOf(load->work.blob);
  if (!reader.ok()) {
    Fail(reader.status());
    load->pin.EndFill({});
    End(std::move(load));
    return;
  }
  load->reader = *std::move(reader);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stats_.read_bytes += load->fill.read_bytes;
  }
  const int64_t image_begin = ImageBegin(PlaceOf(*load));
  load->reads_left = static_cast<int>(load->fill.reads.size());
  for (size_t i = 0; i < load->fill.reads.size(); ++i) {
    const reshard::ByteRange read = load->fill.reads[i];
    const auto into =
        absl::MakeSpan(load->pin.data() + (read.begin - image_begin), static_cast<size_t>(read.size()));
    load->reader->Read(read.begin, into, [this, load](absl::Status status) {
      if (!status.ok()) Fail(std::move(status));
      if (--load->reads_left == 0) plane_.workers().Submit(Urgency::kDigest, [this, load] { Verify(load); });
    });
  }
}

void Loader::Verify(ChunkPtr load) {
  std::vector<uint32_t> good;
  if (!stop_.cancelled()) {
    absl::Status status;
    const StageTimer timer(plane_.meters().verify);
    good = VerifyFill(*spec_.from, BlobOf(*load), load->blocks, load->work.needed, load->fill, *load->reader,
                      load->pin.data(), ImageBegin(PlaceOf(*load)), &status);
    int64_t bytes = 0;
    for (uint32_t block : good) bytes += load->blocks[block].size_bytes;
    timer.Done(bytes);
    if (!status.ok()) Fail(std::move(status));
  }
  load->pin.EndFill(good);
  StartDelivery(std::move(load));
}

void Loader::StartDelivery(ChunkPtr load) {
  auto deliver = [this, load = std::move(load)]() mutable {
    if (absl::Status status = stop_.cancelled() ? stop_.status() : Deliver(*load); !status.ok())
      Fail(std::move(status));
    End(std::move(load));
  };
  if (own_copiers_ != nullptr) {
    own_copiers_->Submit(Urgency::kCopy, std::move(deliver));
  } else {
    deliver();
  }
}

absl::Status Loader::Deliver(ChunkLoad& load) {
  const int64_t image_begin = ImageBegin(PlaceOf(load));
  const StageTimer timer(plane_.meters().scatter);
  BoxMover mover(*spec_.port, Direction::kToTrainer, stop_);
  int64_t bytes = 0;
  for (const Delivery& delivery : load.work.deliveries) {
    const reshard::TensorShard& shard = spec_.wanted[delivery.shard];
    const int64_t item = reshard::SizeBytes(shard.meta.dtype);
    const reshard::LocalBox packed = reshard::RowMajorLayout(
        *delivery.stored, item, spec_.from->extent(delivery.extent).offset_bytes - image_begin);
    absl::Status status;
    if (LocalDtype(delivery.shard) != shard.meta.dtype) {
      status = DeliverConverted(mover, delivery, packed, load.pin.data());
    } else {
      const TrainerBox trainer{&shard.boxes[delivery.box], spec_.buffer_addresses[shard.buffer], item};
      status = mover.Move(delivery.region, trainer, packed, load.pin.data());
    }
    if (!status.ok()) return status;
    bytes += LocalBytes(delivery);
  }
  if (absl::Status status = mover.Flush(); !status.ok()) return status;
  timer.Done(bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.delivered_bytes += bytes;
  if (spec_.progress) spec_.progress(stats_.delivered_bytes, total_bytes_);
  return absl::OkStatus();
}

absl::Status Loader::DeliverConverted(BoxMover& mover, const Delivery& delivery,
                                      const reshard::LocalBox& packed, std::byte* image) {
  const reshard::TensorShard& shard = spec_.wanted[delivery.shard];
  const reshard::DType local = LocalDtype(delivery.shard);
  const int64_t stored_item = reshard::SizeBytes(shard.meta.dtype);
  const int64_t local_item = reshard::SizeBytes(local);
  const int64_t count = reshard::NumElements(delivery.region);
  std::vector<std::byte> stored(count * stored_item), converted(count * local_item);
  const reshard::LocalBox together = reshard::RowMajorLayout(delivery.region, stored_item);
  reshard::CopyRuns(reshard::MakeRunNest(delivery.region, packed, together, stored_item), image,
                    stored.data());
  ConvertElements(shard.meta.dtype, local, count, stored.data(), converted.data());
  const TrainerBox trainer{&shard.boxes[delivery.box], spec_.buffer_addresses[shard.buffer], local_item};
  absl::Status status = mover.Move(delivery.region, trainer,
                                   reshard::RowMajorLayout(delivery.region, local_item), converted.data());
  return status.ok() ? mover.Flush() : status;
}

absl::StatusOr<std::shared_ptr<storage::BlobReader>> Loader::ReaderOf(uint32_t blob) {
  std::lock_guard<std::mutex> lock(readers_mutex_);
  if (readers_[blob] != nullptr) return readers_[blob];
  const StoredBlob& stored = spec_.from->blobs()[blob];
  absl::StatusOr<std::unique_ptr<storage::BlobReader>> reader = OpenBlob(*spec_.store, stored);
  if (!reader.ok()) return reader.status();
  readers_[blob] = *std::move(reader);
  return readers_[blob];
}

void Loader::Fail(absl::Status status) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (failure_.ok()) failure_ = status;
  }
  stop_.Cancel(std::move(status));
}

// Unpins before it counts, so that the caller finds nothing in use.
void Loader::End(ChunkPtr load) {
  load->pin = BlockCache::Pin();
  load.reset();
  std::lock_guard<std::mutex> lock(mutex_);
  --in_flight_;
  ended_.notify_all();
}

}  // namespace

absl::StatusOr<LoadStats> RunLoad(DataPlane& plane, const LoadSpec& spec, Cancellation& cancel) {
  return Loader(plane, spec).Run(cancel);
}

}  // namespace keepstep::daemon
