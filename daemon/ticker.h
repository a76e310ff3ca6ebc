// The daemon's clock: ticks for every job, heartbeats on every page, idle attempts given up, idle memory
// given back.

#ifndef KEEPSTEP_DAEMON_TICKER_H_
#define KEEPSTEP_DAEMON_TICKER_H_

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "daemon/attempt_writer.h"
#include "daemon/executor.h"
#include "daemon/job_registry.h"
#include "daemon/kept_worlds.h"
#include "daemon/pool_keeper.h"
#include "daemon/pulse.h"
#include "daemon/session_registry.h"

namespace keepstep::daemon {

class Ticker {
 public:
  // All outlive it.
  Ticker(SessionRegistry* sessions, JobRegistry* jobs, AttemptWriter* attempts, Executor* calls,
         PoolKeeper* keeper, KeptWorlds* kept, Pulse* pulse);
  ~Ticker();

 private:
  void Run();
  void LookAfter();

  SessionRegistry* const sessions_;
  JobRegistry* const jobs_;
  AttemptWriter* const attempts_;
  Executor* const calls_;
  PoolKeeper* const keeper_;
  KeptWorlds* const kept_;
  const std::shared_ptr<std::atomic<bool>> keeping_ =
      std::make_shared<std::atomic<bool>>(false);  // a look at the pool is under way
  Pulse* const pulse_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_TICKER_H_
