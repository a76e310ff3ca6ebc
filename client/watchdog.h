// The watchdog: opens the gate when the daemon is gone or stuck, so that no daemon can hang a trainer.
//
// Per look: poison every open verdict first, then open the gates (SaveLedger::PoisonAndOpen). Reasons:
//   DAEMON_LOST   the daemon's process has ended (noticed at once)
//   DAEMON_STUCK  no heartbeat for Limits::heartbeat_ms; or a copy owed, and no progress for progress_ms
// Time is counted in looks, each at most two periods long: a trainer that was itself stopped for a minute
// does not take its own pause for the daemon's.

#ifndef KEEPSTEP_CLIENT_WATCHDOG_H_
#define KEEPSTEP_CLIENT_WATCHDOG_H_

#include <memory>
#include <thread>

#include "client/limits.h"
#include "client/save_ledger.h"
#include "client/stop_flag.h"

namespace keepstep::client {

class Watchdog {
 public:
  // `ledger` outlives it. Watches whatever pages the ledger has installed.
  Watchdog(SaveLedger* ledger, const Limits& limits);
  ~Watchdog();  // stops the thread

 private:
  struct Sight;
  void Run();
  void Look(const std::shared_ptr<SessionPages>& pages, Sight* sight);

  SaveLedger* ledger_;
  const Limits limits_;
  StopFlag stop_;
  std::thread thread_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_WATCHDOG_H_
