// Starting saves and waiting for them, over lost answers and restarted daemons.
//
// A save is asked for by a frame on the handoff socket and answered by a word in the daemon's page, which
// costs two wake-ups; Sessions.Save, which costs several, is for what a frame cannot carry and for refusals,
// which have a reason. Both name the save by its number, so that it may be asked for twice.
//
// A save whose answer is lost keeps its gate shut; the same number is sent again, by the caller until its
// time is up and then by a thread, until the daemon answers, the session's resumption settles it, or the
// watchdog fails it.

#ifndef KEEPSTEP_CLIENT_SAVES_H_
#define KEEPSTEP_CLIENT_SAVES_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/gate.h"
#include "client/save_ledger.h"
#include "client/sealer.h"
#include "client/session.h"
#include "client/stop_flag.h"

namespace keepstep::client {

// Thread-safe.
class Saves {
 public:
  // Everything outlives it.
  Saves(Session* session, SaveLedger* ledger, Gate* gate, Sealer* sealer, Devices* devices,
        WindowSamples* samples, const Limits& limits);
  ~Saves();

  // Replaces what is registered once no save in flight reads the old. Finds out where GPU memory lies.
  absl::Status Register(Declared declared, Deadline deadline);

  // `request` lacks number, generation and fences, which are filled in. GPU memory is copied after what was
  // queued on `streams` by now (Devices::Mark). Returns when the daemon has answered. `number` is set once
  // the save counts as issued: also when the answer is an error, or DEADLINE_EXCEEDED (reason
  // OUTCOME_UNKNOWN). Without a daemon the first save waits for one until the deadline, those after it fail at
  // once until there is one: an outage costs the training one wait, however often it saves.
  absl::Status Save(v1::SaveRequest request, absl::Span<void* const> streams, Deadline deadline,
                    uint64_t* number);

  // Blocks until the save has reached `state` or is over. DEADLINE_EXCEEDED with the status known so far in
  // `status`.
  absl::Status Wait(uint64_t number, v1::SaveState state, Deadline deadline, v1::SaveStatus* status);

  // How long the call that started the save took; 0 when forgotten.
  double CallSeconds(uint64_t number) const;

 private:
  bool AwaitAccepted(uint64_t number, const std::shared_ptr<SessionPages>& asked, Deadline deadline);
  absl::Status SendUntilAnswered(v1::SaveRequest request, Deadline deadline);
  void Conclude(const v1::SaveRequest& request, const v1::SaveResponse& response);
  bool AwaitPage(uint64_t number, v1::SaveState state, Deadline deadline);
  absl::Status Ask(uint64_t number, v1::SaveState state, Deadline deadline);
  void RetryLater(v1::SaveRequest request);
  void Retry();
  void StoreCallSeconds(uint64_t number, double seconds);

  Session* session_;
  SaveLedger* ledger_;
  Gate* gate_;
  Sealer* sealer_;
  Devices* devices_;
  WindowSamples* samples_;
  const Limits limits_;
  StopFlag stop_;
  std::atomic<bool> waited_in_vain_{false};  // the last save, for a connection

  std::mutex register_mu_;  // no save is issued while the registration changes

  mutable std::mutex mu_;
  std::condition_variable wake_;
  std::deque<v1::SaveRequest> unknown_;      // guarded by mu_; at most proto::kSaveSlots
  std::map<uint64_t, double> call_seconds_;  // guarded by mu_; the newest
  bool stopping_ = false;                    // guarded by mu_
  std::thread retrier_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_SAVES_H_
