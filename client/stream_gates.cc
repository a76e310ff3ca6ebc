#include "client/stream_gates.h"

#include <algorithm>

#include "client/thread.h"

namespace keepstep::client {
namespace {

constexpr int64_t kSliceMs = 100;  // of the keeper's wait: so soon it sees that the client is closing

}  // namespace

StreamGates::~StreamGates() {
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (keeper_.joinable()) keeper_.join();
  for (const Owed& owed : owed_) devices_->RaiseGate(owed.group, owed.number);
}

// By the window no copy says which save it is for, so it comes after every mark (Devices::Copy): one that stands behind
// this wait would hold up the copy that ends it.
bool StreamGates::OnGpuAlone(uint32_t group) {
  if (session_->copies_gpu_memory()) return false;
  const std::shared_ptr<const Declared> declared = session_->declared();
  return declared != nullptr && std::binary_search(declared->gpu_groups.begin(), declared->gpu_groups.end(), group);
}

absl::Status StreamGates::BeforeUpdate(uint32_t group, void* stream, Deadline deadline) {
  if (group >= proto::kMaxGroups || gate_->IsOpen(group) || !OnGpuAlone(group)) return gate_->Wait(group, deadline);
  const uint64_t number = ledger_->issued();
  const auto followed = devices_->FollowGate(stream, group, number);
  if (!followed.ok()) return followed.status();
  if (!*followed) return gate_->Wait(group, deadline);
  Owe({group, number});
  return absl::OkStatus();
}

void StreamGates::Owe(Owed owed) {
  {
    std::lock_guard lock(mu_);
    owed_.push_back(owed);
    if (!keeper_.joinable()) keeper_ = StartThread("ks-gate", [this] { Run(); });
  }
  wake_.notify_all();
}

bool StreamGates::RaiseOpen() {
  std::lock_guard lock(mu_);
  const auto open = std::partition(owed_.begin(), owed_.end(), [this](const Owed& owed) {
    return !ledger_->ClearThrough(owed.group, owed.number);
  });
  for (auto each = open; each != owed_.end(); ++each) devices_->RaiseGate(each->group, each->number);
  const bool any = open != owed_.end();
  owed_.erase(open, owed_.end());
  return any || stopping_;
}

void StreamGates::Run() {
  while (true) {
    {
      std::unique_lock lock(mu_);
      wake_.wait(lock, [this] { return stopping_ || !owed_.empty(); });
      if (stopping_) return;
    }
    gate_->WaitFor([this] { return RaiseOpen(); }, After(kSliceMs)).IgnoreError();  // not open yet: again
  }
}

}  // namespace keepstep::client
