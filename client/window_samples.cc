#include "client/window_samples.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/failure.h"
#include "client/registration.h"
#include "proto/session_page.h"

namespace keepstep::client {
namespace {

// Group by group, of all that `plan` has.
absl::Status ReadAll(Devices* devices, const DeviceSamplePlan& plan, const Declared& declared,
                     std::map<uint32_t, std::vector<std::byte>>* taken) {
  for (const auto& [group, samples] : plan) {
    std::vector<std::byte>& bytes = (*taken)[group];
    bytes.resize(samples.size() * kDeviceSampleBytes);
    const absl::Status status =
        devices->ReadSamples(samples, declared.allocations, /*after_marks=*/true, bytes.data());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

void WindowSamples::Mark(uint64_t number, std::shared_ptr<const DeviceSamplePlan> plan,
                         std::shared_ptr<const Declared> declared) {
  if (plan == nullptr || plan->empty()) return;
  std::lock_guard lock(mu_);
  saves_[number] = {.plan = std::move(plan), .declared = std::move(declared)};
  while (saves_.size() > proto::kSaveSlots) saves_.erase(saves_.begin());
  due_ = true;
}

void WindowSamples::Forget() {
  std::lock_guard lock(mu_);
  saves_.clear();
}

void WindowSamples::BeforeCopy() {
  if (!due_.exchange(false)) return;
  std::map<uint64_t, Save> due;
  {
    std::lock_guard lock(mu_);
    for (const auto& [number, save] : saves_) {
      if (save.due) due.emplace(number, save);
    }
  }
  for (auto& [number, save] : due) {
    save.failure = ReadAll(devices_, *save.plan, *save.declared, &save.taken);
    std::lock_guard lock(mu_);
    const auto found = saves_.find(number);
    if (found == saves_.end()) continue;
    found->second.due = false;
    found->second.failure = save.failure;
    found->second.taken = std::move(save.taken);
  }
}

absl::Status WindowSamples::Check(uint64_t number, uint32_t group) {
  Save save;
  std::vector<std::byte> before;
  {
    std::lock_guard lock(mu_);
    const auto found = saves_.find(number);
    if (found == saves_.end() || found->second.due || !found->second.plan->contains(group)) return absl::OkStatus();
    if (!found->second.failure.ok()) return found->second.failure;
    save.plan = found->second.plan;
    save.declared = found->second.declared;
    before = std::move(found->second.taken[group]);
  }
  const std::vector<DeviceSample>& samples = save.plan->at(group);
  std::vector<std::byte> now(samples.size() * kDeviceSampleBytes);
  const absl::Status status =
      devices_->ReadSamples(samples, save.declared->allocations, /*after_marks=*/false, now.data());
  if (!status.ok()) return status;
  for (size_t i = 0; i < samples.size(); ++i) {
    const size_t at = i * kDeviceSampleBytes;
    if (std::memcmp(&now[at], &before[at], samples[i].size_bytes) != 0) return UpdatedDuringSave(samples[i].fqn);
  }
  return absl::OkStatus();
}

}  // namespace keepstep::client
