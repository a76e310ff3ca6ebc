#include "daemon/box_mover.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "reshard/flat.h"
#include "reshard/strided.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kMaxRuns = 1 << 16;     // collected before a call
constexpr int64_t kShortRunBytes = 512;  // below this a vector's cost exceeds a second copy's
constexpr int64_t kMaxScratchBytes = 64 << 20;

// The region packed in the order of the trainer's memory: dimensions by falling stride.
reshard::LocalBox MemoryOrder(const reshard::Box& region, const TrainerBox& trainer) {
  const size_t dims = region.shape.size();
  absl::InlinedVector<size_t, 4> order(dims);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::abs(trainer.local->strides_bytes[a]) > std::abs(trainer.local->strides_bytes[b]);
  });
  reshard::LocalBox scratch{region, 0, reshard::Dims(dims, 0)};
  int64_t stride_bytes = trainer.item_size_bytes;
  for (size_t i = dims; i-- > 0;) {
    scratch.strides_bytes[order[i]] = stride_bytes;
    stride_bytes *= region.shape[order[i]];
  }
  return scratch;
}

// Elements as bytes: one more dimension.
reshard::LocalBox AsBytes(const reshard::LocalBox& local, int64_t item_size_bytes) {
  reshard::LocalBox bytes = local;
  bytes.box.origin.push_back(0);
  bytes.box.shape.push_back(item_size_bytes);
  bytes.strides_bytes.push_back(1);
  return bytes;
}

}  // namespace

absl::Status BoxMover::Call(const std::vector<MemoryRun>& runs) {
  if (runs.empty()) return absl::OkStatus();
  return direction_ == Direction::kFromTrainer ? port_.Read(runs, cancel_) : port_.Write(runs, cancel_);
}

absl::Status BoxMover::Flush() {
  absl::Status status = Call(runs_);
  runs_.clear();
  return status;
}

absl::Status BoxMover::Move(const reshard::Box& region, const TrainerBox& trainer,
                            const reshard::LocalBox& packed, std::byte* base) {
  const int64_t item = trainer.item_size_bytes;
  const reshard::RunNest nest = reshard::MakeRunNest(region, *trainer.local, packed, item);
  const int64_t region_bytes = reshard::NumElements(region) * item;
  if (nest.run_bytes < std::min(kShortRunBytes, region_bytes) && region_bytes <= kMaxScratchBytes) {
    const reshard::LocalBox scratch = MemoryOrder(region, trainer);
    if (reshard::MakeRunNest(region, *trainer.local, scratch, item).run_bytes > nest.run_bytes)
      return MoveThroughScratch(region, trainer, scratch, packed, base);
  }
  absl::Status status;
  reshard::ForEachRun(nest, [&](int64_t there_bytes, int64_t here_bytes, int64_t size_bytes) {
    AppendRun(runs_, {trainer.address + there_bytes, base + here_bytes, size_bytes});
    if (runs_.size() >= kMaxRuns && status.ok()) status = Flush();
  });
  return status;
}

absl::Status BoxMover::MoveThroughScratch(const reshard::Box& region, const TrainerBox& trainer,
                                          const reshard::LocalBox& scratch, const reshard::LocalBox& packed,
                                          std::byte* base) {
  const int64_t item = trainer.item_size_bytes;
  scratch_.resize(reshard::NumElements(region) * item);
  if (direction_ == Direction::kToTrainer)
    reshard::CopyRuns(reshard::MakeRunNest(region, packed, scratch, item), base, scratch_.data());
  std::vector<MemoryRun> runs;
  absl::Status status;
  reshard::ForEachRun(
      region, *trainer.local, scratch, item,
      [&](int64_t there_bytes, int64_t here_bytes, int64_t size_bytes) {
        AppendRun(runs, {trainer.address + there_bytes, scratch_.data() + here_bytes, size_bytes});
        if (runs.size() < kMaxRuns) return;
        if (status.ok()) status = Call(runs);
        runs.clear();
      });
  if (status.ok()) status = Call(runs);
  if (status.ok() && direction_ == Direction::kFromTrainer)
    reshard::CopyRuns(reshard::MakeRunNest(region, scratch, packed, item), scratch_.data(), base);
  return status;
}

absl::Status BoxMover::MoveBytes(int64_t begin_bytes, int64_t end_bytes, const TrainerBox& trainer,
                                 std::byte* at) {
  if (begin_bytes == end_bytes) return absl::OkStatus();
  const int64_t item = trainer.item_size_bytes;
  const reshard::Box& box = trainer.local->box;
  const int64_t box_bytes = reshard::NumElements(box) * item;
  const reshard::LocalBox packed = reshard::RowMajorLayout(box, item, -begin_bytes);
  if (begin_bytes == 0 && end_bytes == box_bytes) return Move(box, trainer, packed, at);
  const reshard::RunNest whole = reshard::MakeRunNest(box, *trainer.local, packed, item);
  if (whole.loops.empty()) {
    AppendRun(runs_, {trainer.address + whole.src_offset_bytes + begin_bytes, at, end_bytes - begin_bytes});
    return absl::OkStatus();
  }
  const reshard::LocalBox bytes = AsBytes(*trainer.local, item);
  const reshard::LocalBox packed_bytes = AsBytes(packed, item);
  for (const reshard::Box& region : reshard::DecomposeFlatRange(bytes.box, begin_bytes, end_bytes)) {
    absl::Status status = Move(region, {&bytes, trainer.address, 1}, packed_bytes, at);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace keepstep::daemon
