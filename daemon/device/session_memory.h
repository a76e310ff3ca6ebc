// The GPU memory of one session: descriptors that came over the handoff socket, and the mappings of its newest
// generation.

#ifndef KEEPSTEP_DAEMON_DEVICE_SESSION_MEMORY_H_
#define KEEPSTEP_DAEMON_DEVICE_SESSION_MEMORY_H_

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/device/declared_memory.h"
#include "daemon/device/device_table.h"
#include "daemon/device/trainer_pieces.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

// Thread-safe, but one Open and Close at a time.
class SessionMemory {
 public:
  // `hub` outlives it; null: this daemon maps no GPU memory. `pieces`: what the daemon owns for the process.
  SessionMemory(DeviceHub* hub, std::shared_ptr<TrainerPieces> pieces) : hub_(hub), pieces_(std::move(pieces)) {}
  ~SessionMemory();

  DeviceHub* hub() const { return hub_; }

  // From the handoff thread. INVALID_ARGUMENT: a number that was used; RESOURCE_EXHAUSTED: too many that no
  // registration has claimed.
  absl::Status Take(uint64_t first, std::vector<storage::UniqueFd> descriptors);

  // Maps what is not mapped yet. `declared` by address, none over another. On an error nothing has changed. Waits for
  // descriptors that are on their way: they were sent first, but on another socket than what names them.
  // FAILED_PRECONDITION (GPU_OFF); NOT_FOUND (UNKNOWN_DESCRIPTOR, UNKNOWN_PIECE); errors of the worker.
  absl::StatusOr<std::shared_ptr<const DeviceTable>> Open(const std::vector<DeclaredMemory>& declared);

  // `table` (null: none) is the newest now: closes what only older ones had, and returns when it is closed.
  void CloseAllBut(const DeviceTable* table);

  // The session is over: closes everything, on the hub's thread.
  void End();

 private:
  using Key = std::tuple<GpuUuid, HandleKind, IpcHandle, uint64_t, uint64_t>;

  absl::StatusOr<MemoryHandle> HandleOf(const DeclaredMemory& declared, std::unique_lock<std::mutex>& lock);

  DeviceHub* const hub_;
  const std::shared_ptr<TrainerPieces> pieces_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<uint64_t, std::shared_ptr<const storage::UniqueFd>> descriptors_;  // not claimed yet
  uint64_t next_descriptor_ = 0;
  std::map<Key, std::shared_ptr<Mapping>> mappings_;
  bool ended_ = false;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_SESSION_MEMORY_H_
