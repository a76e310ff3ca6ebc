// GPU memory that the daemon owns, allocated by one client (docs/gpu.md, "Warm restart").
//
//   1. Sessions.Allocate, with the next ordinal of that GPU: the same one until it is answered.
//   2. The descriptor is fetched and mapped (device/owned_table.h).
//
// What was mapped outlives this object and its session.

#ifndef KEEPSTEP_CLIENT_OWNED_MEMORY_H_
#define KEEPSTEP_CLIENT_OWNED_MEMORY_H_

#include <cstdint>
#include <map>
#include <mutex>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/device/devices.h"
#include "client/limits.h"
#include "client/session.h"

namespace keepstep::client {

// Thread-safe.
class OwnedMemory {
 public:
  // All outlive it.
  OwnedMemory(Session* session, Devices* devices, const Limits& limits)
      : session_(session), devices_(devices), limits_(limits) {}

  // The address of at least `size_bytes` new bytes on GPU `device`, in order with other allocations there. Tries again
  // over lost connections. INVALID_ARGUMENT (BAD_ARGUMENT, BAD_ALLOCATION): no such GPU, no bytes; what the daemon refuses;
  // ABORTED (DEVICE_ERROR): this process's driver does not map it.
  absl::StatusOr<uint64_t> Allocate(int device, int64_t size_bytes, Deadline deadline);

  // Unmaps what begins at `address`, and tells the daemon, if one listens. INVALID_ARGUMENT (BAD_ARGUMENT): nothing
  // does.
  absl::Status Free(uint64_t address, Deadline deadline);

 private:
  absl::StatusOr<uint64_t> TryAllocate(const v1::AllocateRequest& request, int device, Deadline deadline,
                                       bool* refused);
  void GiveBack(const Session::Connection& connection, const std::string& gpu, uint64_t ordinal, Deadline deadline);

  Session* session_;
  Devices* devices_;
  const Limits limits_;

  std::mutex mu_;                     // over an allocation: their order names them
  std::map<int, uint64_t> ordinals_;  // guarded by mu_; the last of each GPU
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_OWNED_MEMORY_H_
