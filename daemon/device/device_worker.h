// The daemon's end of one device worker (worker_protocol.h): starts the process, asks, waits for answers, ends it.
//
// A worker that is lost stays lost: every call, under way or later, gets DEVICE_LOST or DEVICE_STUCK, with the cause, once
// its process is gone: until then its GPU may still write to memory that a copy was to fill. (A process that the kernel
// cannot end keeps its callers, and their buffers, for as long.)
// Thread-safe. Calls block until the worker has answered; one that does not answer within `stall` is ended.

#ifndef KEEPSTEP_DAEMON_DEVICE_DEVICE_WORKER_H_
#define KEEPSTEP_DAEMON_DEVICE_DEVICE_WORKER_H_

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "daemon/cancellation.h"
#include "daemon/device/worker_protocol.h"
#include "daemon/host_nodes.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

// "GPU-8f8e…", as nvidia-smi prints it.
std::string GpuName(const GpuUuid& gpu);

struct DeviceWorkerSpec {
  std::vector<std::string> command;  // the program and its arguments
  int memory_fd = -1;                // borrowed: the pool's memfd
  int64_t memory_bytes = 0;
  int64_t pin_bytes = 0;
  std::chrono::milliseconds start_limit{0};  // to make a context
  std::chrono::milliseconds stall{0};        // to answer whatever else it is asked
};

// How memory is shared: by an IPC handle, or by a descriptor that it holds.
struct MemoryHandle {
  HandleKind kind{};
  IpcHandle ipc{};
  std::shared_ptr<const storage::UniqueFd> descriptor;
  int64_t size_bytes = 0;  // of the allocation
};

class DeviceWorker {
 public:
  // Blocks until it has a context. The calling thread must live as long as the worker: the process ends with it.
  // FAILED_PRECONDITION (NO_GPU): no driver, no such GPU, or no context to be had.
  static absl::StatusOr<std::unique_ptr<DeviceWorker>> Start(const DeviceWorkerSpec& spec, const GpuUuid& gpu);
  ~DeviceWorker();  // ends it, and waits until it is gone

  bool lost() const;
  std::string why_lost() const;  // empty: it is not
  void AwaitGone();              // REQUIRES: lost
  pid_t pid() const { return pid_; }
  const GpuUuid& gpu() const { return gpu_; }
  // The NUMA node that the GPU is near, or kAnyNode (daemon/host_nodes.h); and why the worker may run elsewhere, if so.
  int node() const { return node_; }
  const std::string& why_elsewhere() const { return why_elsewhere_; }

  // ABORTED (DEVICE_ERROR): the driver refuses it; the worker goes on.
  absl::Status Map(uint64_t mapping, const MemoryHandle& handle, bool writable);
  absl::Status Unmap(uint64_t mapping);

  // The descriptor of new memory of the GPU, all zeroes. ABORTED (DEVICE_ERROR): the driver has none.
  absl::StatusOr<storage::UniqueFd> Allocate(int64_t size_bytes);

  // Returns when the event's work is done, or with the status of `cancel`. A trainer may keep its GPU busy for as long
  // as it likes: a stall is only a worker that does not answer to Ping meanwhile.
  absl::Status Await(const IpcHandle& event, Cancellation& cancel);

  // Asks it to pin memory of the pool when it has nothing else to do. Waits for nothing.
  void Pin(int64_t offset_bytes, int64_t size_bytes);

  // Returns when all bytes have arrived. Cannot be broken off: the memory is the caller's again when it returns.
  absl::Status Copy(bool into_device, absl::Span<const WorkerCopyRun> runs);

 private:
  struct Call {
    bool done = false;
    WorkerReply reply;
    storage::UniqueFd descriptor;  // that came with it
  };

  DeviceWorker(const DeviceWorkerSpec& spec, const GpuUuid& gpu) : spec_(spec), gpu_(gpu) {}

  absl::Status Send(uint64_t id, absl::Span<const std::byte> frame, int descriptor);
  template <typename Frame>
  absl::Status Ask(Frame frame, int descriptor, std::chrono::milliseconds limit, Call* got = nullptr);
  bool Wait(uint64_t id, std::chrono::milliseconds limit, Cancellation* cancel);
  absl::Status Answer(uint64_t id, Cancellation* cancel, Call* got = nullptr);
  absl::Status AnswerInTime(uint64_t id, std::chrono::milliseconds limit, Call* got = nullptr);
  void Forget(uint64_t await);
  uint64_t NewCall();
  void Lose(absl::Status why);
  absl::Status LostAndGone(std::unique_lock<std::mutex>& lock);
  void Read();
  void Reap();

  const DeviceWorkerSpec spec_;
  const GpuUuid gpu_;
  storage::UniqueFd socket_;
  pid_t pid_ = -1;
  int node_ = kAnyNode;
  std::string why_elsewhere_;

  std::mutex send_mutex_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Call> calls_;
  absl::Status lost_;
  bool gone_ = false;  // lost, and the process has ended

  std::thread reader_;  // ends it too, in the end
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_DEVICE_WORKER_H_
