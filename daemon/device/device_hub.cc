#include "daemon/device/device_hub.h"

#include <algorithm>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/device/exporter_probe.h"

namespace keepstep::daemon {
namespace {

constexpr std::chrono::milliseconds kLookPeriod(1000);  // for workers that nobody needs

}  // namespace

DeviceHub::DeviceHub(DeviceHubSpec spec, StagingPool* pool, Log* log)
    : spec_(std::move(spec)), pool_(pool), log_(log) {
  for (int slot = 0; slot < StagingPool::kBounceBytes / kBounceSlotBytes; ++slot) bounce_.push_back(slot);
  thread_ = std::thread([this] { Run(); });
}

DeviceHub::~DeviceHub() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void DeviceHub::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait_for(lock, kLookPeriod, [this] { return stopping_ || !tasks_.empty(); });
    if (tasks_.empty()) {
      if (stopping_) break;
      lock.unlock();
      EndIdle();
      PinAhead();
      lock.lock();
      continue;
    }
    const std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
  std::map<GpuUuid, Kept> workers = std::exchange(workers_, {});
  lock.unlock();
  const size_t count = workers.size();
  workers.clear();  // ends them, on this thread
  for (size_t i = 0; i < count; ++i) pool_->Hold(false);
}

void DeviceHub::Later(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  changed_.notify_all();
}

absl::StatusOr<std::shared_ptr<DeviceWorker>> DeviceHub::Worker(const GpuUuid& gpu) {
  {
    std::lock_guard lock(mutex_);
    const auto found = workers_.find(gpu);
    if (found != workers_.end() && !found->second.worker->lost()) {
      found->second.used = Clock::now();
      return found->second.worker;
    }
  }
  std::promise<absl::StatusOr<std::shared_ptr<DeviceWorker>>> started;
  Later([&] { started.set_value(StartWorker(gpu)); });
  Later([this] { PinAhead(); });
  return started.get_future().get();
}

// On the hub's thread.
absl::StatusOr<std::shared_ptr<DeviceWorker>> DeviceHub::StartWorker(const GpuUuid& gpu) {
  std::shared_ptr<DeviceWorker> lost;
  {
    std::lock_guard lock(mutex_);
    const auto found = workers_.find(gpu);
    if (found != workers_.end()) {
      if (!found->second.worker->lost()) return found->second.worker;
      lost = std::move(found->second.worker);
      workers_.erase(found);
    }
  }
  if (lost != nullptr) {
    ++counts_.workers_lost;
    log_->Warn("device worker lost", {{"gpu", GpuName(gpu)}, {"why", lost->why_lost()}});
    lost->AwaitGone();
    pool_->Hold(false);
  }
  pool_->Hold(true);
  auto worker = DeviceWorker::Start(WorkerSpec(), gpu);
  if (!worker.ok()) {
    pool_->Hold(false);
    log_->Warn("no device worker", {{"gpu", GpuName(gpu)}, {"error", std::string(worker.status().message())}});
    return worker.status();
  }
  std::shared_ptr<DeviceWorker> shared = *std::move(worker);
  log_->Info("device worker started", {{"gpu", GpuName(gpu)},
                                       {"pid", absl::StrCat(shared->pid())},
                                       {"near", NodeName(shared->node())}});
  if (!shared->why_elsewhere().empty())
    log_->Warn("device worker may run far from its GPU", {{"gpu", GpuName(gpu)}, {"why", shared->why_elsewhere()}});
  std::lock_guard lock(mutex_);
  workers_[gpu] = {shared, Clock::now(), {}};
  return shared;
}

DeviceWorkerSpec DeviceHub::WorkerSpec() const {
  DeviceWorkerSpec spec{.command = spec_.command,
                        .memory_fd = pool_->memory_fd(),
                        .memory_bytes = pool_->memory_bytes(),
                        .pin_bytes = pool_->buffer_bytes(),
                        .start_limit = spec_.start_limit,
                        .stall = spec_.stall};
  if (spec.command.empty()) spec.command = {"/proc/self/exe", kWorkerFlag};
  return spec;
}

absl::Status DeviceHub::OutlivesExporter(const GpuUuid& gpu, HandleKind kind) {
  std::lock_guard probing(probing_);
  {
    std::lock_guard lock(mutex_);
    const auto known = probed_.find({gpu, kind});
    if (known != probed_.end()) return known->second;
  }
  static_assert(kProbeBytes <= kBounceSlotBytes);
  const int slot = TakeBounce();
  std::byte* const into = pool_->bounce() + slot * kBounceSlotBytes;
  pool_->Hold(true);
  const absl::Status result = ProbeExporter(WorkerSpec(), gpu, kind, absl::MakeSpan(into, kProbeBytes),
                                            pool_->OffsetOf(into, kProbeBytes));
  pool_->Hold(false);
  GiveBounce(slot);
  log_->Info("crash flush probed", {{"gpu", GpuName(gpu)},
                                    {"path", kind == HandleKind::kIpc ? "ipc" : "vmm"},
                                    {"result", result.ok() ? "exact" : std::string(result.message())}});
  if (result.ok() || absl::IsFailedPrecondition(result)) {
    std::lock_guard lock(mutex_);
    probed_[{gpu, kind}] = result;
  }
  return result;
}

std::vector<DeviceHub::Probed> DeviceHub::probed() const {
  std::lock_guard lock(mutex_);
  std::vector<Probed> all;
  for (const auto& [path, result] : probed_) all.push_back({path.first, path.second, result});
  return all;
}

// Neighbours go as one range.
void DeviceHub::PinAhead() {
  struct Ahead {
    std::shared_ptr<DeviceWorker> worker;
    int64_t begin = 0, count = 0;
  };
  const std::vector<bool> present = pool_->present();
  std::vector<Ahead> ahead;
  {
    std::lock_guard lock(mutex_);
    for (auto& [gpu, kept] : workers_) {
      kept.pinned.resize(present.size());
      for (size_t i = 0; i < present.size(); ++i) {
        const size_t begin = i;
        for (; i < present.size() && present[i] && !kept.pinned[i]; ++i) kept.pinned[i] = true;
        if (begin < i)
          ahead.push_back({kept.worker, static_cast<int64_t>(begin), static_cast<int64_t>(i - begin)});
      }
    }
  }
  // Without the lock: a worker that hangs takes nothing for a while.
  const int64_t buffer_bytes = pool_->buffer_bytes();
  for (const Ahead& each : ahead) each.worker->Pin(each.begin * buffer_bytes, each.count * buffer_bytes);
}

void DeviceHub::EndIdle() {
  std::vector<std::shared_ptr<DeviceWorker>> idle;
  {
    std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    for (auto it = workers_.begin(); it != workers_.end();) {
      Kept& kept = it->second;
      if (kept.worker.use_count() > 1) kept.used = now;  // a session has memory there
      if (now - kept.used < spec_.idle && !(kept.worker->lost() && kept.worker.use_count() == 1)) {
        ++it;
        continue;
      }
      idle.push_back(std::move(kept.worker));
      it = workers_.erase(it);
    }
  }
  for (std::shared_ptr<DeviceWorker>& worker : idle) {
    log_->Info("device worker ended", {{"gpu", GpuName(worker->gpu())}});
    worker.reset();
    pool_->Hold(false);
  }
}

std::vector<DeviceHub::WorkerState> DeviceHub::workers() const {
  std::lock_guard lock(mutex_);
  std::vector<WorkerState> states;
  for (const auto& [gpu, kept] : workers_) {
    if (!kept.worker->lost()) states.push_back({gpu, kept.worker->pid(), kept.worker->node()});
  }
  return states;
}

int DeviceHub::TakeBounce() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !bounce_.empty(); });
  const int slot = bounce_.back();
  bounce_.pop_back();
  return slot;
}

void DeviceHub::GiveBounce(int slot) {
  {
    std::lock_guard lock(mutex_);
    bounce_.push_back(slot);
  }
  changed_.notify_all();
}

}  // namespace keepstep::daemon
