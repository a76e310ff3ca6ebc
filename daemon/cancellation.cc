#include "daemon/cancellation.h"

#include <utility>

#include "reshard/check.h"

namespace keepstep::daemon {

void Cancellation::Cancel(absl::Status why) {
  KEEPSTEP_CHECK(!why.ok(), "a cancellation needs a reason");
  std::lock_guard<std::mutex> lock(mutex_);
  if (cancelled()) return;
  status_ = std::move(why);
  cancelled_.store(true, std::memory_order_release);
  for (auto& [id, wake] : hooks_) wake();
  hooks_.clear();
}

absl::Status Cancellation::status() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return status_;
}

Cancellation::Hook::Hook(Cancellation& on, std::function<void()> wake) : on_(on) {
  std::lock_guard<std::mutex> lock(on_.mutex_);
  if (on_.cancelled()) {
    wake();
    return;
  }
  id_ = on_.next_id_++;
  on_.hooks_.emplace(id_, std::move(wake));
}

Cancellation::Hook::~Hook() {
  std::lock_guard<std::mutex> lock(on_.mutex_);
  on_.hooks_.erase(id_);
}

}  // namespace keepstep::daemon
