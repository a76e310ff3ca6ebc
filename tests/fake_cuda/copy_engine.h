// Copies bytes at a set bandwidth, and in small steps: who changes the source meanwhile tears the copy, as on
// a GPU.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_COPY_ENGINE_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_COPY_ENGINE_H_

#include <mutex>
#include <vector>

#include "tests/fake_cuda/memory_map.h"
#include "tests/fake_cuda/stream.h"

namespace keepstep::fake_cuda {

// One for each GPU and direction. Thread-safe: copies of several streams take turns.
class CopyEngine {
 public:
  // Each copy takes `copy_us` besides its bytes, where there is a bandwidth.
  CopyEngine(double gigabytes_per_second, double copy_us)
      : gigabytes_per_second_(gigabytes_per_second), copy_ns_(static_cast<int64_t>(copy_us * 1000)) {}

  // Copies `from` to `to`, of the same length in all. Blocks until it is due to be done at the engine's
  // bandwidth, as exactly as sleeping can; what is lost to a late wake-up the next copy makes good. Returns
  // when it was due.
  Time Copy(const std::vector<Piece>& to, const std::vector<Piece>& from, Time ready);

 private:
  const double gigabytes_per_second_;  // 0: as fast as memory is
  const std::chrono::nanoseconds copy_ns_;
  std::mutex mutex_;
  Time free_at_{};
};

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_COPY_ENGINE_H_
