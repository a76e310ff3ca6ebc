#include "daemon/device/mapping.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/error.h"

namespace keepstep::daemon {

Mapping::Use::~Use() {
  if (mapping_ != nullptr) mapping_->End();
}

void Mapping::End() {
  std::lock_guard lock(mutex_);
  if (--uses_ == 0) unused_.notify_all();
}

absl::StatusOr<Mapping::Use> Mapping::Begin() {
  std::lock_guard opening(open_mutex_);
  {
    std::lock_guard lock(mutex_);
    if (closed_) {
      return MakeError(absl::StatusCode::kAborted, "MEMORY_TAKEN_BACK",
                       absl::StrCat("Memory of ", GpuName(gpu_), " was registered anew, or its trainer is gone, before "
                                    "the save had copied it."),
                       "copy");
    }
    if (worker_ != nullptr && !worker_->lost()) {
      ++uses_;
      return Use(this, worker_);
    }
  }
  auto worker = hub_->Worker(gpu_);
  if (!worker.ok()) return worker.status();
  // To write too: a load fills the same memory.
  if (absl::Status status = (*worker)->Map(number_, handle_, /*writable=*/true); !status.ok()) return status;
  std::lock_guard lock(mutex_);
  if (worker_ == nullptr) ++OpenCount();
  worker_ = *std::move(worker);
  ++uses_;
  return Use(this, worker_);
}

// A worker's own limit on answers bounds the wait for copies.
void Mapping::Close() {
  std::lock_guard opening(open_mutex_);
  std::shared_ptr<DeviceWorker> worker;
  {
    std::unique_lock lock(mutex_);
    closed_ = true;
    unused_.wait(lock, [this] { return uses_ == 0; });
    worker = std::exchange(worker_, nullptr);
  }
  if (worker != nullptr) --OpenCount();
  if (worker != nullptr && !worker->lost()) worker->Unmap(number_).IgnoreError();  // lost: it is closed all the more
  handle_.descriptor = nullptr;
}

}  // namespace keepstep::daemon
