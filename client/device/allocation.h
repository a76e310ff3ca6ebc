// An allocation of GPU memory, and how its bytes reach the daemon.

#ifndef KEEPSTEP_CLIENT_DEVICE_ALLOCATION_H_
#define KEEPSTEP_CLIENT_DEVICE_ALLOCATION_H_

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <tuple>

#include "absl/types/span.h"

namespace keepstep::client {

// The paths of docs/gpu.md.
enum class DevicePath : uint8_t { kIpc, kVmm, kWindow };

// "ipc", "vmm", "window".
inline const char* PathName(DevicePath path) {
  return path == DevicePath::kIpc ? "ipc" : path == DevicePath::kVmm ? "vmm" : "window";
}

// A run of addresses of this process that a tensor lies in, and the tensor's name for messages.
struct DeviceRange {
  uint64_t address = 0;
  uint64_t size_bytes = 0;
  std::string fqn;
};

// Who lent a piece of memory that a daemon owns, and as what.
struct OwnedBy {
  uint64_t client = 0;     // Devices::id of this process's client
  int32_t daemon_pid = 0;  // of the daemon that did; another knows nothing of it
  uint64_t ordinal = 0;    // 0: the memory is nobody's but this process's
};

// A few bytes of a tensor in GPU memory, by which an update is noticed.
inline constexpr uint32_t kDeviceSampleBytes = 64;
struct DeviceSample {
  std::string fqn;
  uint64_t address = 0;
  uint32_t size_bytes = 0;  // at most kDeviceSampleBytes
  uint32_t buffer = 0;      // that it lies in, by number
};

// What the driver calls one allocation: all of a cudaMalloc, or one mapped piece of an expandable segment.
//
// Addresses are used again, so an address names nothing by itself: two Allocations are the same memory if
// both are `known` and their keys are equal.
struct Allocation {
  using Identity = std::tuple<uint64_t, uint64_t, uint64_t, uint64_t>;

  uint64_t address = 0;
  uint64_t size_bytes = 0;
  // The driver's numbers for these addresses as they are now, and for the memory behind them, which an
  // expandable segment may replace; never used again in this process.
  uint64_t range_id = 0;
  uint64_t block_id = 0;
  bool known = false;     // the driver told what it takes to tell this memory from every other
  DevicePath path = DevicePath::kWindow;
  int device = 0;        // this process's ordinal
  uint64_t context = 0;  // the CUcontext to work in
  std::string gpu;       // the UUID, 16 bytes
  std::string ipc;       // kIpc: the handle, 64 bytes
  OwnedBy owned;         // kVmm that a daemon owns

  Identity Key() const { return {address, size_bytes, range_id, block_id}; }
};

// The one that `address` lies in; null: none. `sorted` is in the order of addresses.
inline const Allocation* AllocationAt(absl::Span<const Allocation> sorted, uint64_t address) {
  auto next = std::upper_bound(sorted.begin(), sorted.end(), address,
                               [](uint64_t at, const Allocation& each) { return at < each.address; });
  if (next == sorted.begin()) return nullptr;
  const Allocation& found = *std::prev(next);
  return address - found.address < found.size_bytes ? &found : nullptr;
}

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_ALLOCATION_H_
