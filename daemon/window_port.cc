#include "daemon/window_port.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "reshard/check.h"

namespace keepstep::daemon {
namespace {

absl::Status CopyFailed(int32_t error) {
  if (error == EFAULT)
    return absl::OutOfRangeError("the client refused a copy: memory that is not registered");
  return absl::AbortedError(absl::StrCat("the client failed to copy: errno ", error));
}

}  // namespace

WindowPort::WindowPort(absl::Span<std::byte> window, CopyFrameSink* sink)
    : window_(window),
      slot_bytes_(static_cast<int64_t>(window.size()) / kWindowSlots / 4096 * 4096),
      sink_(sink) {
  KEEPSTEP_CHECK(slot_bytes_ > 0, "the window is smaller than its slots");
}

absl::Status WindowPort::Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) {
  return Move(runs, false, cancel);
}

absl::Status WindowPort::Write(absl::Span<const MemoryRun> runs, Cancellation& cancel) {
  return Move(runs, true, cancel);
}

WindowPort::Batch WindowPort::NextBatch(absl::Span<const MemoryRun> runs, size_t* index,
                                        int64_t* offset_bytes) const {
  Batch batch;
  while (*index < runs.size() && batch.size_bytes < slot_bytes_ &&
         batch.runs.size() < static_cast<size_t>(proto::kMaxCopyEntries)) {
    const MemoryRun& run = runs[*index];
    const int64_t take = std::min(run.size_bytes - *offset_bytes, slot_bytes_ - batch.size_bytes);
    if (take > 0) batch.runs.push_back({run.address + *offset_bytes, run.local + *offset_bytes, take});
    batch.size_bytes += take;
    *offset_bytes += take;
    if (*offset_bytes == run.size_bytes) {
      ++*index;
      *offset_bytes = 0;
    }
  }
  return batch;
}

absl::Status WindowPort::Move(absl::Span<const MemoryRun> runs, bool into_client, Cancellation& cancel) {
  size_t index = 0;
  int64_t offset_bytes = 0;
  while (index < runs.size()) {
    const Batch batch = NextBatch(runs, &index, &offset_bytes);
    if (batch.runs.empty()) continue;
    absl::StatusOr<int> slot = TakeSlot(cancel);
    if (!slot.ok()) return slot.status();
    bool slot_free = true;
    absl::Status status = MoveBatch(batch, *slot, into_client, cancel, &slot_free);
    if (slot_free) FreeSlot(*slot);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status WindowPort::MoveBatch(const Batch& batch, int slot, bool into_client, Cancellation& cancel,
                                   bool* slot_free) {
  std::byte* at = window_.data() + slot * slot_bytes_;
  std::vector<proto::CopyEntry> entries;
  entries.reserve(batch.runs.size());
  for (const MemoryRun& run : batch.runs) {
    if (into_client) std::memcpy(at, run.local, run.size_bytes);
    entries.push_back(
        {run.address, static_cast<uint64_t>(run.size_bytes), static_cast<uint64_t>(at - window_.data())});
    at += run.size_bytes;
  }
  uint64_t id;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    id = next_id_++;
    requests_[id].slot = slot;
  }
  if (absl::Status status = sink_->SendCopy(id, into_client, entries); !status.ok()) {
    std::lock_guard<std::mutex> lock(mutex_);
    requests_.erase(id);
    return status;
  }
  if (absl::Status status = AwaitDone(id, cancel, slot_free); !status.ok()) return status;
  if (into_client) return absl::OkStatus();
  at = window_.data() + slot * slot_bytes_;
  for (const MemoryRun& run : batch.runs) {
    std::memcpy(run.local, at, run.size_bytes);
    at += run.size_bytes;
  }
  return absl::OkStatus();
}

absl::Status WindowPort::AwaitDone(uint64_t id, Cancellation& cancel, bool* slot_free) {
  Cancellation::Hook hook(cancel, [this] {
    std::lock_guard<std::mutex> lock(mutex_);
    changed_.notify_all();
  });
  std::unique_lock<std::mutex> lock(mutex_);
  Request& request = requests_[id];
  changed_.wait(lock, [&] { return request.done || !ended_.ok() || cancel.cancelled(); });
  if (request.done) {
    const int32_t error = request.error;
    requests_.erase(id);
    return error == 0 ? absl::OkStatus() : CopyFailed(error);
  }
  *slot_free = false;
  request.abandoned = true;
  if (!ended_.ok()) return ended_;
  lock.unlock();
  return cancel.status();
}

absl::StatusOr<int> WindowPort::TakeSlot(Cancellation& cancel) {
  Cancellation::Hook hook(cancel, [this] {
    std::lock_guard<std::mutex> lock(mutex_);
    changed_.notify_all();
  });
  std::unique_lock<std::mutex> lock(mutex_);
  int slot = -1;
  changed_.wait(lock, [&] {
    const bool* found = std::find(slot_taken_, slot_taken_ + kWindowSlots, false);
    slot = found == slot_taken_ + kWindowSlots ? -1 : static_cast<int>(found - slot_taken_);
    return slot >= 0 || !ended_.ok() || cancel.cancelled();
  });
  if (!ended_.ok()) return ended_;
  if (cancel.cancelled()) {
    lock.unlock();
    return cancel.status();
  }
  slot_taken_[slot] = true;
  return slot;
}

void WindowPort::FreeSlot(int slot) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    slot_taken_[slot] = false;
  }
  changed_.notify_all();
}

bool WindowPort::OnCopyDone(uint64_t id, int32_t error) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = requests_.find(id);
    if (found == requests_.end() || found->second.done) return false;
    if (found->second.abandoned) {
      slot_taken_[found->second.slot] = false;
      requests_.erase(found);
    } else {
      found->second.done = true;
      found->second.error = error;
    }
  }
  changed_.notify_all();
  return true;
}

void WindowPort::OnSessionEnded(absl::Status why) {
  KEEPSTEP_CHECK(!why.ok(), "a session ends with a reason");
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (ended_.ok()) ended_ = std::move(why);
  }
  changed_.notify_all();
}

}  // namespace keepstep::daemon
