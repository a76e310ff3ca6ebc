// The daemon's clock: ticks for every job, heartbeats on every page, idle attempts given up.

#ifndef KEEPSTEP_DAEMON_TICKER_H_
#define KEEPSTEP_DAEMON_TICKER_H_

#include <condition_variable>
#include <mutex>
#include <thread>

#include "daemon/attempt_writer.h"
#include "daemon/executor.h"
#include "daemon/job_registry.h"
#include "daemon/pulse.h"
#include "daemon/session_registry.h"

namespace keepstep::daemon {

class Ticker {
 public:
  // All outlive it.
  Ticker(SessionRegistry* sessions, JobRegistry* jobs, AttemptWriter* attempts, Executor* calls,
         Pulse* pulse);
  ~Ticker();

 private:
  void Run();

  SessionRegistry* const sessions_;
  JobRegistry* const jobs_;
  AttemptWriter* const attempts_;
  Executor* const calls_;
  Pulse* const pulse_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_TICKER_H_
