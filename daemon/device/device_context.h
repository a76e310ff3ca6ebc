// A GPU's context, and what a device worker does in it: maps other processes' memory, copies between it and the
// pool, waits for other processes' events.
//
// One thread at a time. Whatever fails says so by a CUresult; FatalError tells those after which the process has to
// be replaced.

#ifndef KEEPSTEP_DAEMON_DEVICE_DEVICE_CONTEXT_H_
#define KEEPSTEP_DAEMON_DEVICE_DEVICE_CONTEXT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "daemon/device/nearness.h"
#include "daemon/device/worker_protocol.h"
#include "storage/unique_fd.h"
#include "third_party/cuda_driver/cuda_driver.h"

namespace keepstep::daemon {

// CUDA asks that a process which has met one of these be terminated and relaunched.
bool FatalError(CUresult result);

// A failure: the CUresult (or kRefused), and a sentence.
struct DeviceFault {
  static constexpr int32_t kRefused = -1;
  int32_t error = 0;
  std::string text;
  bool unsafe = false;  // memory stays mapped, or may be written to: nothing but the end of the process takes it back
  bool ok() const { return error == 0; }
  bool fatal() const { return unsafe || (error > 0 && FatalError(static_cast<CUresult>(error))); }
};

class DeviceContext {
 public:
  // Takes the primary context of the GPU with this UUID, its streams, and `memory` (the pool) to pin piece by piece.
  // The process stays near that GPU from then on, where `sysfs` (host_nodes.h) tells how.
  static DeviceFault Open(const GpuUuid& gpu, absl::Span<std::byte> memory, size_t pin_bytes, const std::string& sysfs,
                          std::unique_ptr<DeviceContext>* context);
  ~DeviceContext();  // the process ends with it: the driver takes everything back

  const Nearness& nearness() const { return nearness_; }

  // `descriptor` is borrowed.
  DeviceFault Map(uint64_t mapping, const WorkerMap& how, int descriptor);
  // REQUIRES: no copy of it is under way. Whatever fails here is fatal: what is not unmapped keeps its owner's memory.
  DeviceFault Unmap(uint64_t mapping);

  // New memory that holds zeroes, known by `descriptor` alone when this returns.
  DeviceFault Allocate(uint64_t size_bytes, storage::UniqueFd* descriptor);

  // Queues the copies; `done` is called on a thread of the driver once all bytes have arrived, and must not call CUDA.
  // Not OK: nothing will call it, and nothing of it is under way any more, or the failure is fatal.
  DeviceFault Copy(bool into_device, absl::Span<const WorkerCopyRun> runs, std::function<void()> done);

  // Pins the first piece of the range that is not, and cuts the range down to what is left; nothing is left of one that
  // leaves the memory. Pinning takes a copy's time and more: what is ahead of its use costs no save anything.
  void PinSome(uint64_t* offset_bytes, uint64_t* size_bytes);

  // Opens an event of another process; then `Reached` says whether its work is done, and closes it when so.
  DeviceFault OpenEvent(const IpcHandle& handle, CUevent* event);
  DeviceFault Reached(CUevent event, bool* reached);
  void CloseEvent(CUevent event);  // before it is reached

  // An error that a copy met after it was queued.
  DeviceFault Look();

 private:
  struct Mapping {
    CUdeviceptr address = 0;
    uint64_t size_bytes = 0;
    HandleKind kind{};
    CUmemGenericAllocationHandle handle = 0;  // kDescriptor
  };
  struct DoneCall;

  DeviceContext(const cuda::Driver& driver, absl::Span<std::byte> memory, size_t pin_bytes)
      : cu_(driver), memory_(memory), pin_bytes_(pin_bytes), pinned_(memory.size() / pin_bytes + 1) {}

  DeviceFault Check(CUresult result, const char* what) const;
  DeviceFault FindDevice(const GpuUuid& gpu);
  DeviceFault MapIpc(const WorkerMap& how, Mapping* mapping);
  DeviceFault MapDescriptor(const WorkerMap& how, int descriptor, Mapping* mapping);
  DeviceFault MapHandle(bool writable, Mapping* mapping);
  DeviceFault UnmapHandle(const Mapping& mapping);
  DeviceFault CheckRun(const WorkerCopyRun& run) const;
  void Pin(uint64_t offset_bytes, uint64_t size_bytes);
  DeviceFault CallAfter(CUstream stream, CUstream notify, std::function<void()> done);
  DeviceFault Drained(CUstream stream, DeviceFault fault) const;

  const cuda::Driver& cu_;
  const absl::Span<std::byte> memory_;
  const size_t pin_bytes_;
  std::vector<bool> pinned_;
  CUdevice device_ = 0;
  Nearness nearness_;
  CUstream out_ = nullptr, in_ = nullptr;  // device → host, host → device
  // What is called when a copy of that direction is done: a stream waits for its host functions, and copies must not.
  CUstream out_done_ = nullptr, in_done_ = nullptr;
  std::map<uint64_t, Mapping> mappings_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_DEVICE_CONTEXT_H_
