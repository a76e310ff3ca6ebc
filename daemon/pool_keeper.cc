#include "daemon/pool_keeper.h"

#include <algorithm>
#include <utility>

#include "daemon/heap.h"

namespace keepstep::daemon {

PoolKeeper::PoolKeeper(StagingPool* pool, std::function<int64_t()> registered_bytes, Options options)
    : pool_(pool), registered_bytes_(std::move(registered_bytes)), options_(options), idle_(options.idle) {}

int64_t PoolKeeper::Look(Clock::time_point now) {
  const StagingPool::Stats stats = pool_->stats();
  if (stats.buffers_taken != std::exchange(seen_, stats.buffers_taken) ||
      idle_since_ == Clock::time_point::min()) {
    idle_since_ = now;
    trimmed_ = false;
  }
  if (now - idle_since_ < idle_.load()) return 0;
  if (!std::exchange(trimmed_, true)) ReturnFreedHeap();
  const int64_t keep_bytes = std::max(options_.keep_bytes, registered_bytes_());
  if (stats.capacity_bytes <= keep_bytes) return 0;
  return pool_->Shrink(keep_bytes, options_.most_bytes);
}

}  // namespace keepstep::daemon
