// One allocation of a session's GPU memory, open in its GPU's worker.
//
// States: open → closed, once. A copy holds a Use; Close lets no further one begin and waits for those that have. So
// what is read was registered at that moment, and what is closed is read by nobody.

#ifndef KEEPSTEP_DAEMON_DEVICE_MAPPING_H_
#define KEEPSTEP_DAEMON_DEVICE_MAPPING_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/device/device_hub.h"

namespace keepstep::daemon {

// Thread-safe.
class Mapping {
 public:
  // `hub` outlives it.
  Mapping(DeviceHub* hub, const GpuUuid& gpu, MemoryHandle handle)
      : hub_(hub), gpu_(gpu), handle_(std::move(handle)), number_(hub->NewMapping()) {}
  ~Mapping() { Close(); }

  // For as long as it lives, the mapping stays. Movable.
  class Use {
   public:
    Use(Use&& other) noexcept : mapping_(std::exchange(other.mapping_, nullptr)), worker_(std::move(other.worker_)) {}
    ~Use();
    DeviceWorker& worker() const { return *worker_; }

   private:
    friend class Mapping;
    Use(Mapping* mapping, std::shared_ptr<DeviceWorker> worker) : mapping_(mapping), worker_(std::move(worker)) {}
    Mapping* mapping_;
    std::shared_ptr<DeviceWorker> worker_;
  };

  // Maps it in the GPU's worker, unless it is; again where the worker that had it was lost. ABORTED
  // (MEMORY_TAKEN_BACK) once closed, and errors of the worker.
  absl::StatusOr<Use> Begin();

  // Returns when nothing of it is mapped any more, and its descriptor is closed: either would keep the memory allocated.
  // Copies that do not end in time end with their worker.
  void Close();

  const GpuUuid& gpu() const { return gpu_; }
  uint64_t number() const { return number_; }
  HandleKind kind() const { return handle_.kind; }

 private:
  void End();
  std::atomic<int64_t>& OpenCount() const {
    return handle_.kind == HandleKind::kIpc ? hub_->counts().ipc_mappings : hub_->counts().descriptor_mappings;
  }

  DeviceHub* const hub_;
  const GpuUuid gpu_;
  MemoryHandle handle_;  // its descriptor is guarded by open_mutex_
  const uint64_t number_;

  std::mutex open_mutex_;  // one opens at a time
  std::mutex mutex_;
  std::condition_variable unused_;
  std::shared_ptr<DeviceWorker> worker_;  // that has it mapped, or had when it was lost
  int uses_ = 0;
  bool closed_ = false;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_MAPPING_H_
