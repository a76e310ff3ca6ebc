// The end of a save: how its attempt is decided, and what of it is told. The protocol is at the head of
// save_machine.h.

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/logic/failures.h"
#include "daemon/logic/save_machine.h"
#include "storage/attempt.h"
#include "storage/disk_full.h"

namespace keepstep::daemon {

using storage::CommitMachine;
using storage::CommitOutcome;

// One node: one part.
void SaveMachine::RunCommit(const storage::PartSummary& part) {
  auto machine = std::make_shared<CommitMachine>(CommitMachine::Want::kCommit, AbortRecord(),
                                                 std::vector<std::string>{storage::PartName(0)},
                                                 std::vector<storage::PartSummary>{part});
  RunScript(outbox_, life_, machine, [this](const CommitOutcome& outcome) { OnCommitOutcome(outcome); });
}

void SaveMachine::RunAbort() {
  auto machine =
      std::make_shared<CommitMachine>(CommitMachine::Want::kAbort, AbortRecord(), std::vector<std::string>{});
  RunScript(outbox_, life_, machine, [this](const CommitOutcome& outcome) { OnAbortOutcome(outcome); });
}

v1::Decision SaveMachine::AbortRecord() const {
  v1::Decision record;
  record.set_step(spec_.step);
  record.set_attempt(spec_.attempt);
  record.set_epoch(spec_.epoch);
  record.set_world_size(spec_.world_size);
  record.set_time_unix_ms(start_unix_ms_ + outbox_.now());
  record.set_reason(cause_.reason);
  record.set_message(cause_.message);
  return record;
}

void SaveMachine::OnCommitOutcome(const CommitOutcome& outcome) {
  switch (outcome.kind) {
    case CommitOutcome::Kind::kCommitted: Committed(); return;
    case CommitOutcome::Kind::kUncertain: EndUncertain(outcome); return;
    case CommitOutcome::Kind::kAborted:
    case CommitOutcome::Kind::kUndecided: break;
  }
  cause_ = outcome.kind == CommitOutcome::Kind::kAborted
               ? MakeFailure(absl::StatusCode::kAborted, "LOST_COMMIT_RACE",
                             "Someone else aborted this attempt. Earlier checkpoints are intact; save again.",
                             "commit")
               : IoFailure(outcome.status, "commit");
  if (!outcome.reason.empty() && !storage::IsDiskFull(outcome.status)) cause_.reason = outcome.reason;
  failed_at_ = outbox_.now();
  Enter(SaveStage::kStop);
  outbox_.Emit(StopIo{spec_.attempt});
  owner_.OnFailing(*this);
}

void SaveMachine::OnAbortOutcome(const CommitOutcome& outcome) {
  switch (outcome.kind) {
    case CommitOutcome::Kind::kCommitted: Committed(); return;
    case CommitOutcome::Kind::kUncertain:
      // Without a part there is no COMMIT to be uncertain of. A slot that cannot be read now can be read
      // later.
      if (part_asked_ && (absl::IsAborted(outcome.status) || absl::IsDataLoss(outcome.status))) {
        EndUncertain(outcome);
        return;
      }
      break;
    case CommitOutcome::Kind::kAborted:
      if (!decided_) Decide(cause_state_, cause_);
      if (outcome.status.ok()) {
        SyncAndEnd();
        return;
      }
      break;
    case CommitOutcome::Kind::kUndecided: break;
  }
  // Nobody can commit what has no part, so nobody has to wait for storage to take the ABORT: a full disk may
  // not.
  if (!part_asked_ && !decided_) Decide(cause_state_, cause_);
  no_room_ = storage::IsDiskFull(outcome.status);
  outbox_.At(outbox_.now() + backoff_.Next(no_room_), life_, [this] { RunAbort(); });
}

void SaveMachine::Committed() {
  Enter(SaveStage::kCommit);
  outbox_.Catalog(RecordCommit{.attempt = spec_.attempt, .step = spec_.step}, life_,
                  [this](const absl::Status& status) {
                    if (!decided_) Decide(SaveState::kCommitted, {});
                    if (status.ok()) {
                      EraseAndEnd();
                    } else {
                      Enter(SaveStage::kOver);  // the journal entry stays, so that a restart records it
                    }
                  });
}

void SaveMachine::EndUncertain(const CommitOutcome& outcome) {
  uncertain_ = true;
  const bool was_failing = failing();
  cause_ = IoFailure(outcome.status, "commit");
  cause_.reason = outcome.reason.empty() ? "DURABILITY_UNCERTAIN" : outcome.reason;
  cause_state_ = SaveState::kFailed;
  if (!was_failing) {
    outbox_.Emit(StopIo{spec_.attempt});
    owner_.OnFailing(*this);
  }
  if (!decided_) Decide(cause_state_, cause_);
  Enter(SaveStage::kOver);
}

void SaveMachine::Decide(SaveState state, Failure failure) {
  decided_ = true;
  owner_.OnDecided(*this, {.number = spec_.number,
                           .step = spec_.step,
                           .attempt = spec_.attempt,
                           .state = state,
                           .failure = std::move(failure)});
}

// Deletions that a power loss undoes would come back with nobody left to know of them.
void SaveMachine::SyncAndEnd() {
  outbox_.Store(
      {.kind = storage::StoreOp::Kind::kSyncTree, .path = storage::AttemptDir(spec_.step, spec_.attempt)},
      life_, [this](const storage::StoreResult& result) {
        if (result.status.ok()) {
          EraseAndEnd();
        } else {
          Enter(SaveStage::kOver);  // the journal entry stays: the next start reclaims again
        }
      });
}

// An entry that could not be erased costs the next start one look at storage.
void SaveMachine::EraseAndEnd() {
  outbox_.Catalog(EraseJournal{.attempt = spec_.attempt}, life_,
                  [this](const absl::Status&) { Enter(SaveStage::kOver); });
}

}  // namespace keepstep::daemon
