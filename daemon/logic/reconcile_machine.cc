#include "daemon/logic/reconcile_machine.h"

#include <utility>

#include "daemon/logic/failures.h"
#include "storage/attempt.h"
#include "storage/disk_full.h"

namespace keepstep::daemon {

using storage::CommitMachine;
using storage::CommitOutcome;

ReconcileMachine::ReconcileMachine(const Limits& limits, Outbox& outbox, Coordinator& coordinator,
                                   int64_t start_unix_ms)
    : limits_(limits),
      outbox_(outbox),
      coordinator_(coordinator),
      start_unix_ms_(start_unix_ms),
      backoff_(limits) {}

void ReconcileMachine::Start(std::vector<JournalEntry> journal,
                             std::function<void(const ScanScript::Outcome&)> done) {
  journal_ = std::move(journal);
  done_ = std::move(done);
  entry_since_ = outbox_.now();
  SettleNext();
}

void ReconcileMachine::SettleNext() {
  // A row that names no attempt cannot have one on storage.
  while (!journal_.empty() && !storage::ParseAttempt(journal_.back().attempt)) {
    Erase(journal_.back());
    journal_.pop_back();
  }
  if (journal_.empty()) {
    backoff_.Reset();
    Scan();
    return;
  }
  const JournalEntry entry = journal_.back();
  v1::Decision intent;
  intent.set_step(entry.step);
  intent.set_attempt(entry.attempt);
  intent.set_epoch(entry.epoch);
  intent.set_time_unix_ms(start_unix_ms_ + outbox_.now());
  intent.set_reason("LOST_BY_RESTART");
  intent.set_message("keepstepd restarted before this save was durable.");
  RunScript(outbox_, life_,
            std::make_shared<CommitMachine>(CommitMachine::Want::kSettle, std::move(intent),
                                            std::vector<std::string>{}),
            [this, entry](const CommitOutcome& outcome) { OnSettled(entry, outcome); });
}

void ReconcileMachine::OnSettled(const JournalEntry& entry, const CommitOutcome& outcome) {
  const bool no_room = storage::IsDiskFull(outcome.status);
  const bool late = outbox_.now() - entry_since_ >= (no_room ? limits_.no_room_ms : limits_.recover_ms);
  const bool aborted = outcome.kind == CommitOutcome::Kind::kAborted;
  const bool decided = outcome.kind == CommitOutcome::Kind::kCommitted || (aborted && outcome.status.ok());
  if (outcome.kind == CommitOutcome::Kind::kUncertain || (!decided && late)) {
    if (!aborted) GiveUp(entry, outcome.status);
  } else if (!decided) {
    outbox_.At(outbox_.now() + backoff_.Next(no_room), life_, [this] { SettleNext(); });
    return;
  } else {
    const auto erase = [this, entry](const absl::Status& status) {
      if (status.ok()) Erase(entry);
    };
    if (aborted) {
      // Deletions that a power loss undoes would come back with nobody left to know of them.
      outbox_.Store(
          {.kind = storage::StoreOp::Kind::kSyncTree, .path = storage::AttemptDir(entry.step, entry.attempt)},
          life_, [this, entry, erase](const storage::StoreResult& result) {
            if (!result.status.ok()) return;
            outbox_.Catalog(RecordGone{.attempt = entry.attempt, .step = entry.step}, life_, erase);
          });
    } else {
      outbox_.Catalog(RecordCommit{.attempt = entry.attempt, .step = entry.step}, life_, erase);
    }
  }
  journal_.pop_back();
  backoff_.Reset();
  entry_since_ = outbox_.now();
  SettleNext();
}

void ReconcileMachine::GiveUp(const JournalEntry& entry, const absl::Status& status) {
  coordinator_.Distrust(entry.attempt);
  Failure failure = IoFailure(status, "recover");
  failure.reason = "DURABILITY_UNCERTAIN";
  coordinator_.Remember({.number = static_cast<uint64_t>(storage::ParseAttempt(entry.attempt)->counter),
                         .step = entry.step,
                         .attempt = entry.attempt,
                         .state = SaveState::kFailed,
                         .failure = std::move(failure)});
}

void ReconcileMachine::Erase(const JournalEntry& entry) {
  outbox_.Catalog(EraseJournal{.attempt = entry.attempt}, life_, [](const absl::Status&) {});
}

void ReconcileMachine::Scan() {
  RunScript(outbox_, life_, std::make_shared<ScanScript>(), [this](const ScanScript::Outcome& outcome) {
    if (outcome.status.ok()) {
      done_(outcome);
    } else {
      outbox_.At(outbox_.now() + backoff_.Next(/*no_room=*/false), life_, [this] { Scan(); });
    }
  });
}

}  // namespace keepstep::daemon
