// Gives staging memory back to the machine when nobody has needed it for a while.
//
//   1. A buffer that is taken starts the wait anew (`idle`).
//   2. Then each look frees at most `most_bytes`, free buffers first, then cached chunks, the longest unused
//      before the others, down to what the ranks that are there have registered, or to `keep_bytes`.
//   3. The first look after the wait also returns what the allocator keeps of freed records. It may hold the
//      allocator's locks for a while, so it is not for a time when saves are under way.
//
// So a job that trains keeps the memory of its next save, however rarely it saves; a job that has ended
// leaves its checkpoint warm for a restart within `idle`, and nothing after it.
//
// One caller of Look at a time; SetIdle by any thread.

#ifndef KEEPSTEP_DAEMON_POOL_KEEPER_H_
#define KEEPSTEP_DAEMON_POOL_KEEPER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>

#include "daemon/staging_pool.h"

namespace keepstep::daemon {

class PoolKeeper {
 public:
  using Clock = std::chrono::steady_clock;
  struct Options {
    Clock::duration idle = std::chrono::minutes(5);
    int64_t keep_bytes = StagingPool::Options().initial_bytes;
    int64_t most_bytes = int64_t{256} << 20;
  };

  // `pool` outlives the keeper. `registered_bytes`: of all training ranks that are there.
  PoolKeeper(StagingPool* pool, std::function<int64_t()> registered_bytes, Options options);

  void SetIdle(Clock::duration idle) { idle_ = idle; }

  // Every second or so; may block for a fraction of it. Returns bytes freed.
  int64_t Look(Clock::time_point now);

 private:
  StagingPool* const pool_;
  const std::function<int64_t()> registered_bytes_;
  const Options options_;
  std::atomic<Clock::duration> idle_;
  uint64_t seen_ = 0;  // buffers taken, when it was last looked
  Clock::time_point idle_since_ = Clock::time_point::min();
  bool trimmed_ = false;  // since then
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_POOL_KEEPER_H_
