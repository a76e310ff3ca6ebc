#include "daemon/device/owned_memory.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/error.h"

namespace keepstep::daemon {

struct OwnedPiece::Budget {
  const int64_t limit_bytes = 0;  // of each GPU
  mutable std::mutex mutex;
  std::map<GpuUuid, int64_t> used_bytes;  // guarded by mutex
};

OwnedPiece::~OwnedPiece() {
  std::lock_guard lock(budget_->mutex);
  budget_->used_bytes[gpu_] -= size_bytes_;
}

OwnedMemory::Source MadeByWorkers(DeviceHub* hub) {
  return [hub](const GpuUuid& gpu, int64_t size_bytes) -> absl::StatusOr<storage::UniqueFd> {
    auto worker = hub->Worker(gpu);
    if (!worker.ok()) return worker.status();
    return (*worker)->Allocate(size_bytes);
  };
}

OwnedMemory::OwnedMemory(Source source, int64_t limit_bytes)
    : source_(std::move(source)), budget_(new OwnedPiece::Budget{.limit_bytes = limit_bytes}) {}

absl::StatusOr<std::shared_ptr<const OwnedPiece>> OwnedMemory::Allocate(const GpuUuid& gpu, int64_t size_bytes) {
  if (budget_->limit_bytes == 0) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "GPU_POOL_OFF",
                     "This daemon owns no GPU memory: give it some with gpu_pool.bytes, or allocate with CUDA.",
                     "allocate");
  }
  if (size_bytes < 1) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ALLOCATION",
                     absl::StrCat(size_bytes, " bytes of GPU memory are none."), "allocate");
  }
  std::shared_ptr<OwnedPiece> piece;
  {
    std::lock_guard lock(budget_->mutex);
    int64_t& used_bytes = budget_->used_bytes[gpu];
    const int64_t left_bytes = budget_->limit_bytes - used_bytes;
    const int64_t odd_bytes = size_bytes % kPieceGranularityBytes;
    const int64_t filler_bytes = odd_bytes == 0 ? 0 : kPieceGranularityBytes - odd_bytes;
    if (size_bytes > left_bytes || filler_bytes > left_bytes - size_bytes) {
      return MakeError(absl::StatusCode::kResourceExhausted, "GPU_POOL_FULL",
                       absl::StrCat(size_bytes, " bytes asked of ", GpuName(gpu), ", ", left_bytes, " of ",
                                    budget_->limit_bytes, " are left. Raise gpu_pool.bytes, or allocate less from it."),
                       "allocate");
    }
    used_bytes += size_bytes + filler_bytes;
    piece.reset(new OwnedPiece(budget_, gpu, size_bytes + filler_bytes));
  }
  auto descriptor = source_(gpu, piece->size_bytes());
  if (!descriptor.ok()) return descriptor.status();
  piece->descriptor_ = *std::move(descriptor);
  return piece;
}

int64_t OwnedMemory::limit_bytes() const { return budget_->limit_bytes; }

int64_t OwnedMemory::used_bytes() const {
  int64_t total = 0;
  for (const auto& [gpu, bytes] : used_bytes_by_gpu()) total += bytes;
  return total;
}

std::map<GpuUuid, int64_t> OwnedMemory::used_bytes_by_gpu() const {
  std::lock_guard lock(budget_->mutex);
  std::map<GpuUuid, int64_t> used = budget_->used_bytes;
  std::erase_if(used, [](const auto& each) { return each.second == 0; });
  return used;
}

}  // namespace keepstep::daemon
