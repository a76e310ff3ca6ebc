// What a client says of one allocation of GPU memory, checked for form.

#ifndef KEEPSTEP_DAEMON_DEVICE_DECLARED_MEMORY_H_
#define KEEPSTEP_DAEMON_DEVICE_DECLARED_MEMORY_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/device/worker_protocol.h"
#include "proto/sessions.pb.h"

namespace keepstep::daemon {

struct DeclaredMemory {
  uint64_t address = 0;
  int64_t size_bytes = 0;
  GpuUuid gpu{};
  HandleKind kind{};
  IpcHandle ipc{};
  uint64_t descriptor = 0;  // its number
  uint64_t owned = 0;       // its ordinal, where it is memory of the daemon's own; kind is kDescriptor then
};

// An event of a GPU that a save's copies come after.
struct Fence {
  GpuUuid gpu{};
  IpcHandle event{};
};

// INVALID_ARGUMENT (BAD_HANDLE): a UUID or handle of another length, or no handle; (BUFFER_RANGE): no memory.
absl::StatusOr<DeclaredMemory> DeclaredMemoryFrom(const v1::DeviceMemory& memory);
absl::StatusOr<Fence> FenceFrom(const v1::DeviceFence& fence);
// INVALID_ARGUMENT (BAD_HANDLE): another length than a UUID's.
absl::StatusOr<GpuUuid> GpuFrom(const std::string& bytes);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_DECLARED_MEMORY_H_
