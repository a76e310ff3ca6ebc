// What a test sets of the fake driver, by environment variables that cuInit reads once. All but the last
// begin with KEEPSTEP_FAKE_CUDA_.
//
// - DEVICES=2: number of GPUs (default 1, at most 16).
// - UUIDS=HEX,HEX: their UUIDs, 32 hexadecimal digits each; else facefacefaceface… and the ordinal.
// - MEMORY_BYTES=N: memory of each GPU, shared by all processes of a counters file (default 16 GiB).
// - H2D_GBPS=10,5 and D2H_GBPS, D2D_GBPS: bandwidth from host to device, from device to host, and within the
//   device, in 10^9 bytes a second for each GPU; the last number is for all further ones. 0 or nothing is as
//   fast as memcpy. Each process has copy engines of its own, one for each GPU and direction.
// - COPY_US=2: what each copy takes besides that, in microseconds; on a GPU it is one to three. Default 0, and nothing
//   in a direction without a bandwidth.
// - HOST_NUMA_IDS=0,1: the NUMA node of the host that each GPU is near; the last number is for all further ones.
//   Default -1: a machine without NUMA.
// - OFF=NAME,NAME: what this driver cannot do: ipc (legacy handles and events), vmm (cuMemCreate), posix_fd
//   (VMM handles as descriptors), stream_memory_operations, pools, host_numa_id (as drivers before CUDA 12.3), outliving (of
//   a process that has died, what others still map: they read 0xEE).
// - DIRTY=1: new memory of a GPU is 0xDB throughout, by every way of allocating it: CUDA promises nothing of what it
//   holds. Else it is zeroes, which cost no memory before they are written.
// - EXCLUSIVE=1: compute mode EXCLUSIVE_PROCESS, over the processes of a counters file.
// - FAULTS=F;F: calls that fail, at most 64, by cuda.h's names: NAME:NTH:CODE, or NAME:NTH:hang, which never
// returns. NTH is a
//   number from 1, or `*` for every call. Each process counts for itself; with `:once` after it, the first
//   process of the counters file that comes to it has it alone.
// - COUNTERS=PATH: the counters file (counters.h); made if it is not there.
// - CUDA_VISIBLE_DEVICES=1,GPU-UUID: as NVIDIA's driver has it, ordinals or beginnings of UUIDs; what follows
//   an unknown one is invisible too.
//
// A value that makes no sense makes cuInit fail with CUDA_ERROR_INVALID_VALUE, and say why on stderr.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_OPTIONS_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_OPTIONS_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace keepstep::fake_cuda {

using Uuid = std::array<unsigned char, 16>;

inline constexpr int kMostDevices = 16;

// One call that fails. `nth` counts from 1; 0 is every one.
struct Fault {
  std::string call;  // without the version: cuMemAlloc, not cuMemAlloc_v2
  int64_t nth = 0;
  int code = 0;
  bool hangs = false;
  bool once = false;
};

struct DeviceOptions {
  Uuid uuid{};
  double host_to_device_gbps = 0;
  double device_to_host_gbps = 0;
  double device_to_device_gbps = 0;
  double copy_us = 0;
  double host_numa_id = -1;
};

struct Options {
  std::vector<DeviceOptions> devices;  // the visible ones, in their order
  int64_t memory_bytes = int64_t{16} << 30;
  bool ipc = true;
  bool vmm = true;
  bool posix_fd = true;
  bool stream_memory_operations = true;
  bool pools = true;
  bool knows_host_numa_id = true;
  bool outliving = true;
  bool dirty = false;
  bool exclusive = false;
  std::vector<Fault> faults;
  std::string counters_file;  // empty: counters of this process alone
};

// Reads the environment; nothing, with a line on stderr, when a value makes no sense.
std::optional<Options> ReadOptions();

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_OPTIONS_H_
