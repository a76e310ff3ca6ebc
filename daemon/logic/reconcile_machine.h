// What an earlier daemon left: settles the attempts of its journal, then looks at the job's epoch.
//
//   1. For each journal entry: CommitMachine kSettle (what is durable decides; an aborted attempt's blobs
//      are deleted) → catalog row written or removed → journal entry erased.
//   2. ScanScript: the current epoch, its LATEST, its decided attempts.
//   3. `done` runs, once.
//
// Idempotent: a crash at any point is repaired by the next start. Storage that does not answer is asked
// again; after Limits::recover_ms an entry is left as it is, in the journal, and its attempt is not trusted.

#ifndef KEEPSTEP_DAEMON_LOGIC_RECONCILE_MACHINE_H_
#define KEEPSTEP_DAEMON_LOGIC_RECONCILE_MACHINE_H_

#include <functional>
#include <memory>
#include <vector>

#include "daemon/logic/coordinator.h"
#include "daemon/logic/epoch_scripts.h"
#include "daemon/logic/events.h"
#include "daemon/logic/limits.h"
#include "daemon/logic/outbox.h"
#include "daemon/logic/store_script.h"
#include "storage/commit.h"

namespace keepstep::daemon {

class ReconcileMachine {
 public:
  // All outlive the machine.
  ReconcileMachine(const Limits& limits, Outbox& outbox, Coordinator& coordinator, int64_t start_unix_ms);

  void Start(std::vector<JournalEntry> journal, std::function<void(const ScanScript::Outcome&)> done);

 private:
  void SettleNext();
  void OnSettled(const JournalEntry& entry, const storage::CommitOutcome& outcome);
  void GiveUp(const JournalEntry& entry, const absl::Status& status);
  void Erase(const JournalEntry& entry);
  void Scan();

  const Limits& limits_;
  Outbox& outbox_;
  Coordinator& coordinator_;
  const int64_t start_unix_ms_;
  const std::shared_ptr<const void> life_ = std::make_shared<char>();
  std::vector<JournalEntry> journal_;  // to do, last first
  Millis entry_since_ = 0;
  Backoff backoff_;
  std::function<void(const ScanScript::Outcome&)> done_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_RECONCILE_MACHINE_H_
