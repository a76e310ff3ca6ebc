// GPU memory that the daemon owns and lends to trainers (docs/gpu.md, "Warm restart").
//
// A piece is known to the daemon by its descriptor: no worker has it mapped, so it outlives workers and trainers. It
// counts towards its GPU's limit for as long as anybody in the daemon holds it.

#ifndef KEEPSTEP_DAEMON_DEVICE_OWNED_MEMORY_H_
#define KEEPSTEP_DAEMON_DEVICE_OWNED_MEMORY_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/status/statusor.h"
#include "daemon/device/device_hub.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

inline constexpr int64_t kPieceGranularityBytes = int64_t{2} << 20;  // CUDA's, on every GPU so far

// Immutable.
class OwnedPiece {
 public:
  ~OwnedPiece();  // gives its bytes back to the GPU's limit
  OwnedPiece(const OwnedPiece&) = delete;
  OwnedPiece& operator=(const OwnedPiece&) = delete;

  const GpuUuid& gpu() const { return gpu_; }
  int64_t size_bytes() const { return size_bytes_; }
  const storage::UniqueFd& descriptor() const { return descriptor_; }

 private:
  friend class OwnedMemory;
  struct Budget;
  OwnedPiece(std::shared_ptr<Budget> budget, const GpuUuid& gpu, int64_t size_bytes)
      : budget_(std::move(budget)), gpu_(gpu), size_bytes_(size_bytes) {}

  const std::shared_ptr<Budget> budget_;
  const GpuUuid gpu_;
  const int64_t size_bytes_;
  storage::UniqueFd descriptor_;
};

// Thread-safe.
class OwnedMemory {
 public:
  // Makes memory of a GPU, all zeroes, known by the descriptor alone. May block.
  using Source = std::function<absl::StatusOr<storage::UniqueFd>(const GpuUuid& gpu, int64_t size_bytes)>;

  // `limit_bytes`: of each GPU; 0: there is none to be had.
  OwnedMemory(Source source, int64_t limit_bytes);

  // New memory; the size is rounded up to the granularity. Blocks for the source.
  // FAILED_PRECONDITION (GPU_POOL_OFF, NO_GPU), INVALID_ARGUMENT (BAD_ALLOCATION): no bytes; RESOURCE_EXHAUSTED
  // (GPU_POOL_FULL): over the limit; errors of the source: ABORTED (DEVICE_ERROR) where the GPU has none left.
  absl::StatusOr<std::shared_ptr<const OwnedPiece>> Allocate(const GpuUuid& gpu, int64_t size_bytes);

  int64_t limit_bytes() const;
  int64_t used_bytes() const;  // of all GPUs
  std::map<GpuUuid, int64_t> used_bytes_by_gpu() const;  // of those of which any is

 private:
  const Source source_;
  const std::shared_ptr<OwnedPiece::Budget> budget_;
};

// By the GPU's device worker. `hub` outlives the source.
OwnedMemory::Source MadeByWorkers(DeviceHub* hub);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_OWNED_MEMORY_H_
