#include "daemon/data_plane.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "daemon/chunk_grid.h"

namespace keepstep::daemon {

absl::StatusOr<std::unique_ptr<DataPlane>> DataPlane::Start(const DataPlaneSpec& spec) {
  if (spec.pool.buffer_bytes < MinChunkBufferBytes())
    return absl::InvalidArgumentError("a staging buffer holds less than two blocks");
  if (spec.copy_workers < 0 || spec.copy_workers > 1024)
    return absl::InvalidArgumentError("copy workers: 0 (one per processor) to 1024");
  absl::StatusOr<std::unique_ptr<StagingPool>> pool = StagingPool::Start(spec.pool);
  if (!pool.ok()) return pool.status();
  const int processors = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::unique_ptr<DataPlane> plane(new DataPlane);
  plane->meters_ = spec.meters;
  plane->pool_ = *std::move(pool);
  plane->cache_ = std::make_unique<BlockCache>(plane->pool_.get());
  plane->workers_ = std::make_unique<WorkerPool>(spec.copy_workers > 0 ? spec.copy_workers : processors);
  return plane;
}

DataPlane::~DataPlane() = default;

}  // namespace keepstep::daemon
