// The daemon's device workers, one a GPU: started when somebody needs one, ended when nobody has for a while.
//
// A thread of its own starts and ends them, since a worker ends with the thread that started it, and does what must
// not hold others up: closing a dead trainer's memory, telling workers what the pool has grown by, so that it is pinned
// before a save uses it. While any worker lives the pool keeps its memory.

#ifndef KEEPSTEP_DAEMON_DEVICE_DEVICE_HUB_H_
#define KEEPSTEP_DAEMON_DEVICE_DEVICE_HUB_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/device/device_worker.h"
#include "daemon/log.h"
#include "daemon/staging_pool.h"

namespace keepstep::daemon {

struct DeviceHubSpec {
  std::vector<std::string> command;  // of a worker; empty: this program with kWorkerFlag
  std::chrono::milliseconds start_limit{60'000};  // of a worker: to make a context
  std::chrono::milliseconds stall{30'000};
  std::chrono::milliseconds idle{60'000};
};

// Thread-safe.
class DeviceHub {
 public:
  struct WorkerState {
    GpuUuid gpu{};
    pid_t pid = 0;
    int node = kAnyNode;
  };

  // `pool` (a shared one) and `log` outlive the hub.
  DeviceHub(DeviceHubSpec spec, StagingPool* pool, Log* log);
  ~DeviceHub();  // what was asked for Later is done first; nobody holds a worker any more

  // The GPU's worker, started if there is none that lives. Blocks for as long as a context takes. Errors of
  // DeviceWorker::Start.
  absl::StatusOr<std::shared_ptr<DeviceWorker>> Worker(const GpuUuid& gpu);

  // Whether mappings of this kind are read exactly once their exporter has died: probed when it is first asked, and known
  // from then on. Blocks for as long as two CUDA contexts take. Errors of ProbeExporter.
  absl::Status OutlivesExporter(const GpuUuid& gpu, HandleKind kind);
  struct Probed {
    GpuUuid gpu{};
    HandleKind kind{};
    absl::Status result;
  };
  std::vector<Probed> probed() const;

  // Runs `task` on the hub's thread, some time soon, in order.
  void Later(std::function<void()> task);

  uint64_t NewMapping() { return ++mappings_; }

  // What it has done and has, for metrics. Added to by mappings and ports.
  struct Counts {
    std::atomic<int64_t> ipc_mappings{0}, descriptor_mappings{0};  // open now
    std::atomic<int64_t> bytes_from_gpus{0}, bytes_to_gpus{0};     // copied since the start
    std::atomic<int64_t> workers_lost{0};                          // since the start
  };
  Counts& counts() { return counts_; }
  StagingPool& pool() const { return *pool_; }
  std::vector<WorkerState> workers() const;

  // A part of the pool's bounce memory, for bytes that lie in no buffer. Blocks until one is free.
  static constexpr int64_t kBounceSlotBytes = int64_t{1} << 20;
  int TakeBounce();
  void GiveBounce(int slot);

 private:
  using Clock = std::chrono::steady_clock;
  struct Kept {
    std::shared_ptr<DeviceWorker> worker;
    Clock::time_point used;
    std::vector<bool> pinned;  // by buffer of the pool: what it was told of
  };

  DeviceWorkerSpec WorkerSpec() const;
  void Run();
  absl::StatusOr<std::shared_ptr<DeviceWorker>> StartWorker(const GpuUuid& gpu);
  void EndIdle();
  void PinAhead();

  const DeviceHubSpec spec_;
  StagingPool* const pool_;
  Log* const log_;
  std::atomic<uint64_t> mappings_{0};
  Counts counts_;

  std::mutex probing_;  // one at a time; taken before mutex_
  mutable std::mutex mutex_;
  std::map<std::pair<GpuUuid, HandleKind>, absl::Status> probed_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::map<GpuUuid, Kept> workers_;
  std::vector<int> bounce_;  // free slots

  std::thread thread_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_DEVICE_HUB_H_
