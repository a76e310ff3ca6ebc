// What every process that uses the fake driver holds, in one file that all of them map: a test counts that
// nothing is left.
//
// The file is a head of 4096 bytes and 256 slots of 512 bytes, one for each process; numbers are
// little-endian.
//
// - Head: 8 bytes magic "KSFCUDA1"; 16 UUIDs of 16 bytes, in the order of first use; 64 bytes, one for each
//   fault of KEEPSTEP_FAKE_CUDA_FAULTS that was to happen once, 1 when it has.
// - Slot: 8 bytes pid; 16 counters of 8 bytes (Counter); for each GPU of the head 8 bytes contexts; for each
//   GPU of the head 8 bytes of memory.
//
// A slot counts while its owner lives: the owner holds a lock on the slot's first byte, which the kernel
// drops when the process is gone, however it ended. (An open-file-description lock: a forked child would
// share it, so the child lets go.) tests/fake_cuda/counters.py reads it. Thread-safe.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_COUNTERS_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_COUNTERS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "tests/fake_cuda/options.h"

namespace keepstep::fake_cuda {

enum Counter : int {
  kContexts,             // primary contexts that are retained
  kImports,              // open legacy mappings, one for each opened allocation
  kVmmMappings,          // cuMemMap without its cuMemUnmap
  kVmmHandles,           // references to VMM handles: created, imported, retained and not released
  kAllocations,          // allocations made here that still have their memory, of all kinds
  kAllocatedBytes,       // … and their bytes
  kRegisteredBytes,      // cuMemHostRegister and cuMemAllocHost
  kHostToDeviceBytes,    // copied so far
  kDeviceToHostBytes,    // copied so far
  kDeviceToDeviceBytes,  // copied so far
  kStreams,              // made by cuStreamCreate
  kEvents,               // made by cuEventCreate or opened
  kReservedBytes,        // cuMemAddressReserve
};

class Counters {
 public:
  // Maps `path` (made if it is not there), or memory of this process alone when it is empty, and takes a
  // slot. False when that cannot be done; then nothing else may be called.
  bool Open(const std::string& path);

  void Add(Counter counter, int64_t by);

  // The number of `uuid` in the head, for the calls below; the same in every process. -1 when there are too
  // many.
  int DeviceNumber(const Uuid& uuid);

  // Adds a context on the device. False when it is to be the only process with one, and is not.
  bool AddContext(int device_number, bool exclusive);
  void RemoveContext(int device_number);

  // Takes `bytes` of the device's memory, unless all living processes together would then have more than
  // `limit_bytes`.
  bool TakeMemory(int device_number, int64_t bytes, int64_t limit_bytes);
  void GiveMemory(int device_number, int64_t bytes);
  int64_t UsedMemory(int device_number);

  // True for the first caller of all processes.
  bool FireOnce(int fault_number);

 private:
  struct Slot;
  struct File;

  int64_t Sum(const std::function<int64_t(const Slot&)>& value);
  bool Lives(int slot_number);
  void Locked(const std::function<void()>& what);
  File* Map();
  bool TakeSlot();

  File* file_ = nullptr;
  Slot* mine_ = nullptr;
  int fd_ = -1;
};

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_COUNTERS_H_
