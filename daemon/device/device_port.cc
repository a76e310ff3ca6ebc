#include "daemon/device/device_port.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/device/stretches.h"
#include "daemon/error.h"

namespace keepstep::daemon {
namespace {

// The same error, told of a tensor.
absl::Status OfTensor(const absl::Status& status, const std::string& tensor) {
  if (status.ok()) return status;
  return MakeError(status.code(), ReasonOf(status), absl::StrCat(tensor, ": ", status.message()), StageOf(status));
}

class BounceSlot {
 public:
  explicit BounceSlot(DeviceHub* hub) : hub_(hub), slot_(hub->TakeBounce()) {}
  ~BounceSlot() { hub_->GiveBounce(slot_); }
  std::byte* data() const { return hub_->pool().bounce() + slot_ * DeviceHub::kBounceSlotBytes; }

 private:
  DeviceHub* const hub_;
  const int slot_;
};

}  // namespace

DevicePort::DevicePort(DeviceHub* hub, std::shared_ptr<MemoryPort> host, std::shared_ptr<const DeviceTable> table,
                       std::vector<Fence> fences, std::function<std::string(uint64_t address)> tensor_at)
    : hub_(hub),
      host_(std::move(host)),
      table_(std::move(table)),
      fences_(std::move(fences)),
      tensor_at_(std::move(tensor_at)) {}

absl::Status DevicePort::Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) {
  return Move(runs, false, cancel);
}

absl::Status DevicePort::Write(absl::Span<const MemoryRun> runs, Cancellation& cancel) {
  return Move(runs, true, cancel);
}

// All copiers wait for the one that asks.
absl::Status DevicePort::AwaitFences(Cancellation& cancel) {
  std::lock_guard lock(fences_mutex_);
  if (fences_reached_) return absl::OkStatus();
  for (const Fence& fence : fences_) {
    auto worker = hub_->Worker(fence.gpu);
    if (!worker.ok()) return worker.status();
    if (absl::Status status = (*worker)->Await(fence.event, cancel); !status.ok()) return status;
  }
  fences_reached_ = true;
  return absl::OkStatus();
}

absl::Status DevicePort::Move(absl::Span<const MemoryRun> runs, bool into_device, Cancellation& cancel) {
  if (cancel.cancelled()) return cancel.status();
  std::vector<MemoryRun> of_host;
  std::vector<Piece> direct, bounced;
  for (MemoryRun run : runs) {
    const DeviceTable::Entry* entry = table_->Find(run.address);
    if (entry == nullptr) {
      of_host.push_back(run);
      continue;
    }
    auto& pieces = hub_->pool().OffsetOf(run.local, run.size_bytes) < 0 ? bounced : direct;
    while (run.size_bytes > 0) {
      if (entry == nullptr) return absl::OutOfRangeError("a tensor of a GPU ends in no registered memory");
      const int64_t left_bytes = entry->size_bytes - static_cast<int64_t>(run.address - entry->address);
      const int64_t take = std::min(run.size_bytes, left_bytes);
      pieces.push_back({entry, {run.address, run.local, take}});
      run = {run.address + take, run.local + take, run.size_bytes - take};
      if (run.size_bytes > 0) entry = table_->Find(run.address);
    }
  }
  if (!into_device && !(direct.empty() && bounced.empty())) {
    if (absl::Status status = AwaitFences(cancel); !status.ok()) return status;
  }
  if (!into_device) {
    if (absl::Status status = ReadTogether(direct); !status.ok()) return status;
  }
  if (absl::Status status = MoveDirect(direct, into_device); !status.ok()) return status;
  if (absl::Status status = MoveBounced(bounced, into_device); !status.ok()) return status;
  if (of_host.empty()) return absl::OkStatus();
  return into_device ? host_->Write(of_host, cancel) : host_->Read(of_host, cancel);
}

// Takes out of `pieces`, and reads, the small ones that lie close together.
absl::Status DevicePort::ReadTogether(std::vector<Piece>& pieces) {
  std::vector<PieceAt> places;
  places.reserve(pieces.size());
  for (const Piece& piece : pieces) {
    places.push_back(
        {piece.entry->mapping->number(), piece.run.address - piece.entry->address, piece.run.size_bytes});
  }
  const Stretches found = FindStretches(places, DeviceHub::kBounceSlotBytes);
  if (found.stretches.empty()) return absl::OkStatus();
  const BounceSlot slot(hub_);
  for (size_t next = 0; next < found.stretches.size();) {
    const size_t first = next;
    std::vector<Piece> whole;
    std::vector<int64_t> offsets;
    int64_t used_bytes = 0;
    for (; next < found.stretches.size(); ++next) {
      const Stretch& stretch = found.stretches[next];
      if (used_bytes + stretch.size_bytes > DeviceHub::kBounceSlotBytes) break;
      const Piece& begin = pieces[stretch.pieces.front()];
      std::byte* at = slot.data() + used_bytes;
      whole.push_back({begin.entry, {begin.run.address, at, stretch.size_bytes}});
      offsets.push_back(hub_->pool().OffsetOf(at, stretch.size_bytes));
      used_bytes += stretch.size_bytes;
    }
    if (absl::Status status = Copy(whole, offsets, false); !status.ok()) return status;
    for (size_t i = first; i < next; ++i) {
      for (const size_t index : found.stretches[i].pieces) {
        const MemoryRun& run = pieces[index].run;
        const Piece& from = whole[i - first];
        std::memcpy(run.local, from.run.local + (run.address - from.run.address), run.size_bytes);
      }
    }
  }
  std::vector<Piece> alone;
  for (const size_t index : found.alone) alone.push_back(pieces[index]);
  pieces = std::move(alone);
  return absl::OkStatus();
}

absl::Status DevicePort::MoveDirect(absl::Span<const Piece> pieces, bool into_device) {
  if (pieces.empty()) return absl::OkStatus();
  std::vector<int64_t> offsets;
  offsets.reserve(pieces.size());
  for (const Piece& piece : pieces) offsets.push_back(hub_->pool().OffsetOf(piece.run.local, piece.run.size_bytes));
  return Copy(pieces, offsets, into_device);
}

absl::Status DevicePort::MoveBounced(absl::Span<const Piece> pieces, bool into_device) {
  if (pieces.empty()) return absl::OkStatus();
  const BounceSlot slot(hub_);
  size_t index = 0;
  int64_t done_bytes = 0;  // of pieces[index]
  while (index < pieces.size()) {
    std::vector<Piece> some;
    std::vector<int64_t> offsets;
    int64_t used_bytes = 0;
    while (index < pieces.size() && used_bytes < DeviceHub::kBounceSlotBytes) {
      const MemoryRun& run = pieces[index].run;
      const int64_t take = std::min(run.size_bytes - done_bytes, DeviceHub::kBounceSlotBytes - used_bytes);
      some.push_back({pieces[index].entry, {run.address + done_bytes, run.local + done_bytes, take}});
      offsets.push_back(hub_->pool().OffsetOf(slot.data() + used_bytes, take));
      if (into_device) std::memcpy(slot.data() + used_bytes, run.local + done_bytes, take);
      used_bytes += take;
      done_bytes += take;
      if (done_bytes < run.size_bytes) break;
      ++index;
      done_bytes = 0;
    }
    if (absl::Status status = Copy(some, offsets, into_device); !status.ok()) return status;
    if (into_device) continue;
    int64_t at_bytes = 0;
    for (const Piece& piece : some) {
      std::memcpy(piece.run.local, slot.data() + at_bytes, piece.run.size_bytes);
      at_bytes += piece.run.size_bytes;
    }
  }
  return absl::OkStatus();
}

// Holds every mapping until all bytes have moved.
absl::Status DevicePort::Copy(absl::Span<const Piece> pieces, absl::Span<const int64_t> host_offsets,
                              bool into_device) {
  std::map<Mapping*, Mapping::Use> uses;
  struct OfWorker {
    std::vector<WorkerCopyRun> runs;
    uint64_t first_address = 0;
    int64_t size_bytes = 0;
  };
  std::map<DeviceWorker*, OfWorker> by_worker;
  for (size_t i = 0; i < pieces.size(); ++i) {
    Mapping* mapping = pieces[i].entry->mapping.get();
    auto use = uses.find(mapping);
    if (use == uses.end()) {
      auto begun = mapping->Begin();
      if (!begun.ok()) return OfTensor(begun.status(), tensor_at_(pieces[i].run.address));
      use = uses.emplace(mapping, *std::move(begun)).first;
    }
    OfWorker& work = by_worker[&use->second.worker()];
    if (work.runs.empty()) work.first_address = pieces[i].run.address;
    work.size_bytes += pieces[i].run.size_bytes;
    work.runs.push_back({.mapping = mapping->number(),
                         .device_offset_bytes = pieces[i].run.address - pieces[i].entry->address,
                         .host_offset_bytes = static_cast<uint64_t>(host_offsets[i]),
                         .size_bytes = static_cast<uint64_t>(pieces[i].run.size_bytes)});
  }
  for (auto& [worker, work] : by_worker) {
    if (absl::Status status = worker->Copy(into_device, work.runs); !status.ok())
      return OfTensor(status, tensor_at_(work.first_address));
    (into_device ? hub_->counts().bytes_to_gpus : hub_->counts().bytes_from_gpus) += work.size_bytes;
  }
  return absl::OkStatus();
}

}  // namespace keepstep::daemon
