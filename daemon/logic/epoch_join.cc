// Ranks that join and resume. The protocol is at the head of epoch_machine.h.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/logic/epoch_machine.h"
#include "daemon/logic/failures.h"

namespace keepstep::daemon {

EpochMachine::EpochMachine(const Limits& limits, Outbox& outbox, World& world, int64_t start_unix_ms)
    : limits_(limits),
      outbox_(outbox),
      world_(world),
      start_unix_ms_(start_unix_ms),
      claim_backoff_(limits) {}

void EpochMachine::OnStarted(const JobStarted& started) {
  world_.epoch = started.epoch;
  world_.size = started.world_size;
  world_.roster_known = started.roster_known;
  world_.retention = started.retention;
  journal_lost_ = !started.roster_known;
  for (const RosterEntry& entry : started.roster) world_.roster[entry.rank] = entry.nonce;
}

void EpochMachine::Ready(const ScanScript::Outcome& scan) {
  if (!world_.roster_known || scan.epoch != world_.epoch) {
    // Claimed since the catalog last knew, or the catalog was lost.
    world_.roster.clear();
    world_.roster_known = false;
    world_.retention = {};
    world_.epoch = scan.epoch;
    world_.size = scan.world_size;
  }
  latest_ = scan.latest;
  assembled_ = world_.size > 0 && static_cast<int32_t>(world_.roster.size()) == world_.size;
  for (const Verdict& verdict : scan.decided) coordinator_->Remember(verdict);
  ready_ = true;
}

void EpochMachine::OnOpened(const SessionOpened& opened) { opens_.push_back({opened, outbox_.now()}); }

void EpochMachine::AfterEvent() {
  if (claim_ && claim_->no_room) RefuseWaiting(*claim_->no_room);
  ProcessOpens();
  ContinueClaim();
  ProcessLoads();
}

// One at a time, in order: each may change what the next one finds.
void EpochMachine::ProcessOpens() {
  while (ready_ && !joining_ && !claim_ && !opens_.empty()) {
    const SessionOpened opened = opens_.front().opened;
    opens_.pop_front();
    Open(opened);
  }
}

std::optional<Failure> EpochMachine::CheckOpen(const SessionOpened& opened) const {
  if (opened.world_size < 1 || opened.world_size > limits_.max_world_size || opened.rank < 0 ||
      opened.rank >= opened.world_size) {
    return MakeFailure(
        absl::StatusCode::kInvalidArgument, "BAD_RANK",
        absl::StrCat("Rank ", opened.rank, " of ", opened.world_size, " is not a rank of any world."), "open",
        opened.rank);
  }
  if (const std::optional<std::string> fault = PolicyFault(opened.retention))
    return MakeFailure(absl::StatusCode::kInvalidArgument, "BAD_RETENTION", *fault, "open", opened.rank);
  if (opened.epoch == 0) return std::nullopt;
  const auto member = world_.roster.find(opened.rank);
  const bool listed = member != world_.roster.end();
  const bool mine = listed ? member->second == opened.nonce : !world_.roster_known;
  if (opened.epoch != world_.epoch || opened.world_size != world_.size || !latest_ || !mine) {
    return StaleEpoch(world_.epoch);
  }
  return std::nullopt;
}

bool EpochMachine::NeedsClaim(const SessionOpened& opened) const {
  const auto member = world_.roster.find(opened.rank);
  const bool another = member != world_.roster.end() && member->second != opened.nonce;
  return world_.epoch == 0 || !world_.roster_known || !latest_ || opened.world_size != world_.size || another;
}

void EpochMachine::Open(const SessionOpened& opened) {
  if (std::optional<Failure> failure = CheckOpen(opened)) {
    RefuseOpen(opened.session, *std::move(failure));
  } else if (opened.epoch == 0 && NeedsClaim(opened)) {
    StartClaim(opened);
  } else if (opened.retention != world_.retention && world_.roster_known) {
    RefuseOpen(opened.session, RetentionDiffers(opened.rank, opened.retention, world_.retention));
  } else {
    Join(opened);
  }
}

void EpochMachine::Join(const SessionOpened& opened) {
  const auto [member, added] = world_.roster.try_emplace(opened.rank, opened.nonce);
  if (!added) {
    FinishJoin(opened);
    return;
  }
  joining_ = true;
  outbox_.Catalog(PutRoster{.epoch = world_.epoch,
                            .world_size = world_.size,
                            .roster = Roster(),
                            .retention = world_.retention},
                  life_, [this, opened](const absl::Status& status) {
                    joining_ = false;
                    if (status.ok()) {
                      FinishJoin(opened);
                      return;
                    }
                    world_.roster.erase(opened.rank);
                    RefuseOpen(opened.session, IoFailure(status, "open", opened.rank));
                  });
}

void EpochMachine::FinishJoin(const SessionOpened& opened) {
  Session session{.id = opened.session, .rank = opened.rank, .nonce = opened.nonce};
  SessionId old_id = 0;
  if (Session* old = world_.OfRank(opened.rank)) {  // resumed while the daemon lived
    old_id = old->id;
    session = *old;
    session.id = opened.session;
    session.lost_since.reset();
    session.kept = false;
    world_.sessions.erase(old_id);
  }
  Session& joined = world_.sessions[opened.session] = std::move(session);
  if (old_id != 0 && old_id != opened.session) {
    joined.fingerprint.clear();  // a new session registers anew
    joined.generation = 0;
    coordinator_->RefuseHeld(old_id, StaleEpoch(world_.epoch));
    for (Load& load : loads_) {
      if (load.request.session == old_id) load.request.session = joined.id;
    }
  }
  if (opened.epoch != 0 || opened.saves_issued > 0)
    coordinator_->OnResumed(old_id, joined, opened.saves_issued);
  outbox_.Emit(AnswerOpen{.session = opened.session,
                          .epoch = world_.epoch,
                          .unsettled = coordinator_->Unsettled(joined, opened.saves_issued)});
  coordinator_->Pump();
}

void EpochMachine::RefuseOpen(SessionId session, Failure failure) {
  outbox_.Emit(AnswerOpen{.session = session, .epoch = world_.epoch, .failure = std::move(failure)});
}

void EpochMachine::OnLost(SessionId session) {
  Session* known = world_.Find(session);
  if (known != nullptr && !known->kept && !known->lost_since) known->lost_since = outbox_.now();
}

void EpochMachine::OnDead(SessionId session, const char* reason) {
  const auto gone = [session](const Opening& opening) { return opening.opened.session == session; };
  opens_.erase(std::remove_if(opens_.begin(), opens_.end(), gone), opens_.end());
  if (claim_ && claim_->opener && claim_->opener->session == session) claim_->opener.reset();
  Session* known = world_.Find(session);
  if (known == nullptr) return;
  const int32_t rank = known->rank;
  const Failure failure =
      MakeFailure(absl::StatusCode::kAborted, reason,
                  absl::StrCat("The session of rank ", rank, " has ended."), "session", rank);
  coordinator_->OnRankDead(rank);
  coordinator_->RefuseHeld(session, failure);
  RefuseLoadsOf(session, failure);
  world_.sessions.erase(session);
}

// As dead to all that its process would have to do, but in its place until it is judged.
void EpochMachine::OnKept(SessionId session) {
  Session* known = world_.Find(session);
  if (known == nullptr) return;
  known->kept = true;
  known->lost_since.reset();
  const Failure failure =
      MakeFailure(absl::StatusCode::kAborted, "TRAINER_DIED",
                  absl::StrCat("The process of rank ", known->rank, " has ended."), "session", known->rank);
  coordinator_->OnRankDead(known->rank);
  coordinator_->RefuseHeld(session, failure);
  RefuseLoadsOf(session, failure);
}

void EpochMachine::OnTick() {
  std::vector<SessionId> expired;
  for (const auto& [id, session] : world_.sessions) {
    if (session.lost_since && outbox_.now() - *session.lost_since >= limits_.resume_ms) expired.push_back(id);
  }
  for (SessionId id : expired) {
    OnDead(id, "SESSION_EXPIRED");
    outbox_.Emit(CloseSession{.session = id,
                              .failure = MakeFailure(absl::StatusCode::kAborted, "SESSION_EXPIRED",
                                                     "The session was lost for too long.", "session")});
  }
  const auto overdue = [this](Millis since) { return outbox_.now() - since >= limits_.recover_ms; };
  while (!opens_.empty() && overdue(opens_.front().since) && !claim_) {
    RefuseOpen(opens_.front().opened.session, Recovering());
    opens_.pop_front();
  }
  ExpireLoads();
}

std::vector<RosterEntry> EpochMachine::Roster() const {
  std::vector<RosterEntry> roster;
  for (const auto& [rank, nonce] : world_.roster) roster.push_back({.rank = rank, .nonce = nonce});
  return roster;
}

void EpochMachine::FillSnapshot(JobSnapshot& snapshot) const {
  snapshot.recovering = !ready_;
  snapshot.claiming = claim_.has_value();
  snapshot.epoch = world_.epoch;
  snapshot.world_size = world_.size;
  snapshot.retention = world_.retention;
  for (const auto& [id, session] : world_.sessions) {
    snapshot.sessions.push_back(
        {.session = id, .rank = session.rank, .lost = session.lost_since.has_value()});
  }
  std::sort(snapshot.sessions.begin(), snapshot.sessions.end(),
            [](const SessionSnapshot& a, const SessionSnapshot& b) { return a.rank < b.rank; });
  snapshot.missing_ranks = world_.MissingRanks();
  if (snapshot.last_committed_step < 0 && latest_ && latest_->found) {
    snapshot.last_committed_step = latest_->step;
    snapshot.last_committed_attempt = latest_->attempt;
  }
}

}  // namespace keepstep::daemon
