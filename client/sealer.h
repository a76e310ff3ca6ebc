// The sealing thread: follows the daemon's page while a save is open, compares what is released, and seals.

#ifndef KEEPSTEP_CLIENT_SEALER_H_
#define KEEPSTEP_CLIENT_SEALER_H_

#include <condition_variable>
#include <mutex>
#include <thread>

#include "client/limits.h"
#include "client/save_ledger.h"

namespace keepstep::client {

class Sealer {
 public:
  Sealer(SaveLedger* ledger, const Limits& limits);  // `ledger` outlives it
  ~Sealer();                                         // seals what can be sealed, then stops the thread

  void Wake();  // a save was issued

 private:
  void Run();
  bool Sleep();

  SaveLedger* ledger_;
  const Limits limits_;
  std::mutex mu_;
  std::condition_variable wake_;
  bool stop_ = false;  // guarded by mu_
  std::thread thread_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_SEALER_H_
