// What all saves and loads of a daemon share: staging memory, the chunks kept in it, the threads that move
// bytes.

#ifndef KEEPSTEP_DAEMON_DATA_PLANE_H_
#define KEEPSTEP_DAEMON_DATA_PLANE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "daemon/block_cache.h"
#include "daemon/stage_meter.h"
#include "daemon/staging_pool.h"
#include "daemon/worker_pool.h"

namespace keepstep::daemon {

struct DataPlaneSpec {
  StagingPool::Options pool;
  int copy_workers = 0;  // 0: one per processor
  PlaneMeters meters;    // outlive the plane
};

// Outlives every save and load that uses it.
class DataPlane {
 public:
  static absl::StatusOr<std::unique_ptr<DataPlane>> Start(const DataPlaneSpec& spec);
  ~DataPlane();

  StagingPool& pool() { return *pool_; }
  BlockCache& cache() { return *cache_; }
  WorkerPool& workers() { return *workers_; }
  const PlaneMeters& meters() const { return meters_; }

 private:
  DataPlane() = default;

  PlaneMeters meters_;
  std::unique_ptr<StagingPool> pool_;
  std::unique_ptr<BlockCache> cache_;
  std::unique_ptr<WorkerPool> workers_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DATA_PLANE_H_
