// A trainer of the tests of GPU memory: a process that has allocations, and does with them what it is told.

#ifndef KEEPSTEP_DAEMON_DEVICE_TEST_TRAINER_H_
#define KEEPSTEP_DAEMON_DEVICE_TEST_TRAINER_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "daemon/device/declared_memory.h"
#include "storage/unique_fd.h"
#include "tests/fake_cuda/peer.h"

namespace keepstep::daemon {

// The byte at `index` of memory filled with `seed`.
constexpr uint8_t PatternByte(uint32_t seed, uint64_t index) {
  const uint64_t mixed = (index * 0x9E3779B97F4A7C15u) ^ (uint64_t{seed} * 0xC2B2AE3D27D4EB4Fu);
  return static_cast<uint8_t>(mixed >> 32);
}

class TestTrainer {
 public:
  TestTrainer() : peer_("trainer") {}

  // cuMemAlloc, filled with the pattern of `seed`.
  DeclaredMemory Allocate(int64_t size_bytes, uint32_t seed);
  // One mapped piece of VMM memory at the end of the range of the pieces before, with its descriptor. A multiple of 2 MiB.
  std::pair<DeclaredMemory, storage::UniqueFd> AllocatePiece(int64_t size_bytes, uint32_t seed);
  void Free(const DeclaredMemory& memory);
  void Fill(const DeclaredMemory& memory, uint32_t seed);
  std::vector<uint8_t> Read(const DeclaredMemory& memory);

  // Queues on a stream: a wait for Release, then a fill with `seed`, then an event, whose handle this returns.
  Fence QueueFillBehindGate(const DeclaredMemory& memory, uint32_t seed);
  void Release();

  void Kill() { peer_.Kill(); }

 private:
  fake_cuda::Peer peer_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_TEST_TRAINER_H_
