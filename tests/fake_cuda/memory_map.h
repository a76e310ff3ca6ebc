// What each device address of this process leads to, and which host memory is registered.
//
// Thread-safe. A Range is a copy: what it names stays mapped for as long as somebody holds its `physical`.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_MEMORY_MAP_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_MEMORY_MAP_H_

#include <cuda.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "tests/fake_cuda/address_space.h"
#include "tests/fake_cuda/physical.h"

namespace keepstep::fake_cuda {

struct Range {
  enum class Kind { kAllocated, kPool, kImported, kVirtual };

  CUdeviceptr base = 0;
  size_t size_bytes = 0;
  Kind kind = Kind::kAllocated;
  int device = 0;   // ordinal
  uint64_t id = 0;  // of this range, never used again
  std::shared_ptr<Physical> physical;
  bool readable = true;
  bool writable = true;
  int opens = 1;  // of an imported one
};

struct HostRange {
  uint64_t base = 0;
  size_t size_bytes = 0;
  uint64_t id = 0;
  bool allocated = false;  // by cuMemAllocHost
};

// Some bytes of a copy, and what keeps them mapped.
struct Piece {
  char* data;
  size_t size_bytes;
  std::shared_ptr<Physical> keep;  // null for host memory
};

enum class Access { kMapped, kRead, kWrite };

class MemoryMap {
 public:
  bool Start() { return addresses_.Reserve(); }

  bool IsDevice(uint64_t address) const { return addresses_.Contains(address); }

  // Puts `range` at addresses of its own and returns its base, 0 when there are none.
  CUdeviceptr Place(Range range);

  // Takes away the range that begins at `base` if `wanted` says so, and gives its addresses to the next one
  // that asks.
  std::optional<Range> Remove(CUdeviceptr base, const std::function<bool(const Range&)>& wanted);

  // The range that `address` is in.
  std::optional<Range> Find(CUdeviceptr address) const;

  // Calls `change` with each range, under the lock, until it returns true.
  void Change(const std::function<bool(Range&)>& change);

  // The pieces behind `size_bytes` from `address` on, of the host or the device. CUDA_ERROR_INVALID_VALUE
  // where device memory is not mapped or ends; CUDA_ERROR_ILLEGAL_ADDRESS where it must not be accessed so.
  CUresult Resolve(uint64_t address, size_t size_bytes, Access access, std::vector<Piece>& into) const;

  // Reserved addresses, and mappings in them.
  CUdeviceptr ReserveAddresses(size_t size_bytes, size_t alignment);
  bool FreeAddresses(CUdeviceptr base, size_t size_bytes);  // false unless reserved so, and empty
  bool MapReserved(Range range);  // false unless in one reservation, and not mapped yet
  // Removes the mappings that make up exactly these addresses, or none and returns nothing.
  std::vector<Range> UnmapReserved(CUdeviceptr base, size_t size_bytes);

  // CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED where it overlaps.
  CUresult RegisterHost(uint64_t base, size_t size_bytes, bool allocated);
  std::optional<HostRange> UnregisterHost(uint64_t base, bool allocated);
  std::optional<HostRange> FindHost(uint64_t address) const;

 private:
  using Ranges = std::map<CUdeviceptr, Range>;

  Ranges::const_iterator At(CUdeviceptr address) const;

  mutable std::mutex mutex_;
  AddressSpace addresses_;
  Ranges ranges_;                               // by base, disjoint
  std::map<CUdeviceptr, size_t> reservations_;  // of cuMemAddressReserve
  std::map<uint64_t, HostRange> host_;          // by base, disjoint
  uint64_t last_id_ = 0;
};

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_MEMORY_MAP_H_
