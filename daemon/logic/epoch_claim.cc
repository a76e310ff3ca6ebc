// A new epoch, from the wish to the move. The protocol is at the head of epoch_machine.h.

#include <memory>
#include <utility>

#include "daemon/logic/epoch_machine.h"
#include "daemon/logic/failures.h"
#include "storage/disk_full.h"

namespace keepstep::daemon {

void EpochMachine::StartClaim(std::optional<SessionOpened> opener) {
  claim_ = Claim();
  claim_->since = outbox_.now();
  claim_backoff_.Reset();
  if (opener) {
    claim_->claimer = {.rank = opener->rank, .nonce = opener->nonce};
    claim_->world_size = opener->world_size;
    claim_->retention = opener->retention;
  } else {
    const Session& first = *world_.OfRank(0);
    claim_->claimer = {.rank = first.rank, .nonce = first.nonce};
    claim_->world_size = world_.size;
    claim_->retention = world_.retention;
    claim_->same_world = true;
  }
  claim_->opener = std::move(opener);
}

void EpochMachine::TakeOver(const Nonce& nonce) {
  if (claim_ || joining_) return;
  claim_ = Claim();
  claim_->since = outbox_.now();
  claim_backoff_.Reset();
  claim_->claimer = {.rank = 0, .nonce = nonce};
  claim_->world_size = 1;
  ContinueClaim();
}

// Step 1: what is sealed becomes durable, what cannot be sealed in time is given up.
void EpochMachine::ContinueClaim() {
  if (!claim_ || claim_->running) return;
  const Millis waited = outbox_.now() - claim_->since;
  const bool unjudged = world_.AllKept() && waited < limits_.claim_unsealed_ms;  // a rescue may come yet
  if (coordinator_->Quiet() && keeper_->Idle() && !unjudged) {
    claim_->running = true;
    PublishClaim();
    return;
  }
  if (waited >= limits_.claim_unsealed_ms) {
    coordinator_->FailSaves(waited >= limits_.claim_sealed_ms, StaleEpoch(world_.epoch + 1));
  }
}

// The new epoch is needed however long storage does not answer; only those who asked may stop waiting. They
// do so at once when a disk is full, which they, or whoever reads their error, can mend.
void EpochMachine::RetryClaim(const absl::Status& status, void (EpochMachine::*step)()) {
  const bool no_room = storage::IsDiskFull(status);
  if (claim_->opener && (no_room || outbox_.now() - claim_->since >= limits_.recover_ms)) {
    RefuseOpen(claim_->opener->session, IoFailure(status, "claim", claim_->opener->rank));
    claim_->opener.reset();
  }
  claim_->no_room.reset();
  if (no_room) claim_->no_room = IoFailure(status, "claim");
  outbox_.At(outbox_.now() + claim_backoff_.Next(no_room), life_, [this, step] { (this->*step)(); });
}

void EpochMachine::RefuseWaiting(const Failure& failure) {
  for (const Opening& opening : std::exchange(opens_, {})) RefuseOpen(opening.opened.session, failure);
  for (const Load& load : std::exchange(loads_, {})) RefuseLoad(load.request, failure);
}

void EpochMachine::PublishClaim() {
  v1::Claim record;
  record.set_world_size(claim_->world_size);
  record.set_nonce(claim_->claimer.nonce.data(), claim_->claimer.nonce.size());
  record.set_time_unix_ms(start_unix_ms_ + outbox_.now());
  RunScript(outbox_, life_, std::make_shared<ClaimScript>(world_.epoch, std::move(record)),
            [this](const ClaimScript::Outcome& outcome) {
              if (!outcome.status.ok()) {
                RetryClaim(outcome.status, &EpochMachine::PublishClaim);
                return;
              }
              claim_->epoch = outcome.epoch;
              Inherit();
            });
}

void EpochMachine::Inherit() {
  InheritScript::Spec spec{.epoch = claim_->epoch,
                           .excluded = coordinator_->LiveAttempts(),
                           .everything = journal_lost_,
                           .unix_ms = start_unix_ms_ + outbox_.now()};
  RunScript(outbox_, life_, std::make_shared<InheritScript>(std::move(spec)),
            [this](const InheritScript::Outcome& outcome) {
              if (!outcome.status.ok()) {
                RetryClaim(outcome.status, &EpochMachine::Inherit);
                return;
              }
              // The catalog is an index: a row that could not be written is found again by reindex.
              const auto ignore = [](const absl::Status&) {};
              for (const JournalEntry& entry : outcome.committed) {
                outbox_.Catalog(RecordCommit{.attempt = entry.attempt, .step = entry.step}, life_, ignore);
              }
              for (const JournalEntry& entry : outcome.aborted) {
                outbox_.Catalog(RecordGone{.attempt = entry.attempt, .step = entry.step}, life_, ignore);
              }
              claim_->latest = outcome.latest;
              PutClaimRoster();
            });
}

void EpochMachine::PutClaimRoster() {
  std::vector<RosterEntry> roster;
  for (const auto& [id, session] : world_.sessions) {
    const bool fresh = claim_->world_size == world_.size && claim_->retention == world_.retention &&
                       !session.loaded && !session.saved && !session.kept;
    const bool moves = session.rank != claim_->claimer.rank && (claim_->same_world || fresh);
    if (moves) roster.push_back({.rank = session.rank, .nonce = session.nonce});
  }
  roster.push_back(claim_->claimer);
  outbox_.Catalog(PutRoster{.epoch = claim_->epoch,
                            .world_size = claim_->world_size,
                            .roster = roster,
                            .retention = claim_->retention},
                  life_, [this, roster](const absl::Status& status) {
                    if (!status.ok()) {
                      RetryClaim(status, &EpochMachine::PutClaimRoster);
                      return;
                    }
                    world_.roster.clear();
                    for (const RosterEntry& entry : roster) world_.roster[entry.rank] = entry.nonce;
                    EnterEpoch();
                  });
}

// A session moves iff the durable roster has its nonce.
void EpochMachine::EnterEpoch() {
  const Claim claim = *std::exchange(claim_, std::nullopt);
  world_.epoch = claim.epoch;
  world_.size = claim.world_size;
  world_.roster_known = true;
  world_.retention = claim.retention;
  journal_lost_ = false;
  latest_ = claim.latest;
  assembled_ = false;
  parent_ = Parent::kUnknown;
  parent_waiters_.clear();
  std::vector<SessionId> stale;
  for (auto& [id, session] : world_.sessions) {
    const auto member = world_.roster.find(session.rank);
    if (member == world_.roster.end() || member->second != session.nonce || session.rank >= world_.size) {
      stale.push_back(id);
      continue;
    }
    session.loaded.reset();
    session.saved = false;
    outbox_.Emit(MoveSession{.session = id, .epoch = world_.epoch});
  }
  for (SessionId id : stale) {
    coordinator_->RefuseHeld(id, StaleEpoch(world_.epoch));
    RefuseLoadsOf(id, StaleEpoch(world_.epoch));
    world_.sessions.erase(id);
    outbox_.Emit(CloseSession{.session = id, .failure = StaleEpoch(world_.epoch)});
  }
  coordinator_->OnEpochChanged(claim.same_world);
  keeper_->OnEpochChanged();
  if (claim.opener) FinishJoin(*claim.opener);
  coordinator_->Pump();
}

}  // namespace keepstep::daemon
