#include "daemon/logic/save_machine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/logic/failures.h"
#include "storage/attempt.h"

namespace keepstep::daemon {

using storage::CommitMachine;
using storage::CommitOutcome;

SaveMachine::SaveMachine(const Limits& limits, Outbox& outbox, SaveOwner& owner, Spec spec,
                         int64_t start_unix_ms)
    : limits_(limits),
      outbox_(outbox),
      owner_(owner),
      spec_(std::move(spec)),
      start_unix_ms_(start_unix_ms),
      accepted_at_(outbox.now()),
      ranks_(spec_.world_size),
      stage_since_(outbox.now()),
      progress_at_(outbox.now()),
      backoff_(limits) {}

void SaveMachine::Enter(SaveStage stage) {
  if (stage == stage_) return;
  stage_ = stage;
  stage_since_ = outbox_.now();
}

bool SaveMachine::AllArrived() const {
  return std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.arrived; });
}

bool SaveMachine::sealed() const {
  return spec_.rescue ||
         std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.sealed; });
}

bool SaveMachine::started() const {
  return std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.started; });
}

SaveState SaveMachine::rank_state(int32_t rank) const {
  const Rank& state = ranks_[rank];
  if (state.sealed && state.flushed) return SaveState::kPersisted;
  return state.copied ? SaveState::kSnapshotted : SaveState::kAccepted;
}

void SaveMachine::Start() {
  Enter(SaveStage::kJournal);
  progress_at_ = outbox_.now();
  outbox_.Catalog(PutJournal{.entry = {.attempt = spec_.attempt, .step = spec_.step, .epoch = spec_.epoch}},
                  life_, [this](const absl::Status& status) { OnJournal(status); });
}

void SaveMachine::OnJournal(const absl::Status& status) {
  if (stage_ != SaveStage::kJournal) return;
  if (!status.ok()) {
    Fail(IoFailure(status, "journal"));
    return;
  }
  Enter(SaveStage::kArrive);
  Plan();
}

void SaveMachine::OnArrived(int32_t rank, SessionId session, const std::string& fingerprint) {
  Rank& state = ranks_[rank];
  if (state.arrived) return;
  state.arrived = true;
  state.session = session;
  state.fingerprint = fingerprint;
  OnProgress();
  if (!Waiting()) return;
  if (AllArrived()) owner_.OnAllArrived(*this);
  Plan();
  StartRanks();
}

void SaveMachine::OnSessionReplaced(int32_t rank, SessionId session) { ranks_[rank].session = session; }

void SaveMachine::Plan() {
  if (stage_ != SaveStage::kArrive || plan_asked_) return;
  std::vector<std::string> now = owner_.Fingerprints();
  const bool covered = owner_.PlanCovers(now);
  if (!covered && !AllArrived()) return;
  plan_asked_ = true;
  plan_fingerprints_ = std::move(now);
  for (int32_t rank = 0; rank < spec_.world_size; ++rank) CheckRank(rank);
  if (failing()) return;
  Enter(SaveStage::kPlan);
  outbox_.Emit(MakePlan{.attempt = spec_.attempt, .step = spec_.step, .first = !covered});
}

void SaveMachine::OnPlanMade(const absl::Status& status) {
  if (stage_ != SaveStage::kPlan) return;
  if (!status.ok()) {
    const Failure failure = IoFailure(status, "plan");
    const bool no_room = failure.reason == "DISK_FULL" || failure.reason == "QUOTA";
    if (!no_room || std::exchange(room_asked_, true)) {
      Fail(failure);
      return;
    }
    owner_.MakeRoom([this, owner = Owner(life_), failure](bool freed) {
      if (owner.expired() || stage_ != SaveStage::kPlan) return;
      if (freed) {
        outbox_.Emit(MakePlan{.attempt = spec_.attempt, .step = spec_.step});
      } else {
        Fail(failure);
      }
    });
    return;
  }
  planned_ = true;
  OnProgress();
  owner_.OnPlanned(plan_fingerprints_);
  UpdateStage();
  StartRanks();
}

// An arrived rank whose registration differs from the planned one would be copied by somebody else's map.
void SaveMachine::CheckRank(int32_t rank) {
  if (!ranks_[rank].arrived || ranks_[rank].fingerprint == plan_fingerprints_[rank]) return;
  Fail(MakeFailure(absl::StatusCode::kFailedPrecondition, "PLAN_CHANGED",
                   absl::StrCat("Rank ", rank, " changed what it registered while save ", spec_.number,
                                " was being planned. This save alone fails; the next one plans anew."),
                   "plan", rank));
}

void SaveMachine::StartRanks() {
  if (!planned_ || failing()) return;
  for (int32_t rank = 0; rank < spec_.world_size; ++rank) {
    Rank& state = ranks_[rank];
    if (!state.arrived || state.started) continue;
    CheckRank(rank);
    if (failing()) return;
    state.started = true;
    outbox_.Emit(
        StartRank{.attempt = spec_.attempt, .rank = rank, .session = state.session, .number = spec_.number});
  }
}

void SaveMachine::OnGroupCopied(int32_t rank, uint32_t group) {
  if (!Waiting() || !ranks_[rank].started) return;
  OnProgress();
  owner_.OnGroupCopied(*this, rank, group);
}

void SaveMachine::OnRankCopied(int32_t rank) {
  if (!Waiting() || !ranks_[rank].started || ranks_[rank].copied) return;
  ranks_[rank].copied = true;
  OnProgress();
  owner_.OnRankState(*this, rank, SaveState::kSnapshotted);
  UpdateStage();
}

void SaveMachine::OnRankFlushed(int32_t rank) {
  if (!Waiting() || !ranks_[rank].copied || ranks_[rank].flushed) return;
  ranks_[rank].flushed = true;
  OnProgress();
  if (ranks_[rank].sealed) owner_.OnRankState(*this, rank, SaveState::kPersisted);
  UpdateStage();
  WritePartIfReady();
}

void SaveMachine::OnVerdict(int32_t rank, bool sealed) {
  Rank& state = ranks_[rank];
  if (!Waiting() || !state.arrived || state.sealed) return;
  if (!sealed || !state.copied) {
    Fail(MakeFailure(
        absl::StatusCode::kAborted, "POISONED",
        absl::StrCat("Rank ", rank, sealed ? " sealed save " : " stopped waiting and let updates into save ",
                     spec_.number,
                     sealed ? " before it was copied." : " before it was copied: it would be torn."),
        "seal", rank));
    return;
  }
  state.sealed = true;
  OnProgress();
  if (state.flushed) owner_.OnRankState(*this, rank, SaveState::kPersisted);
  UpdateStage();
  WritePartIfReady();
}

void SaveMachine::OnRankIoFailed(int32_t rank, const std::string& stage, const absl::Status& status) {
  if (Waiting()) Fail(IoFailure(status, stage, rank));
}

void SaveMachine::OnRankDead(int32_t rank) {
  if (!Waiting() || ranks_[rank].sealed) return;
  const absl::string_view what = ranks_[rank].arrived
                                     ? " died before it sealed save "
                                     : " ended and never called save (every rank has to, not rank 0 alone): save ";
  Fail(MakeFailure(absl::StatusCode::kAborted, "TRAINER_DIED",
                   absl::StrCat("Rank ", rank, what, spec_.number, "."),
                   ranks_[rank].copied    ? "seal"
                   : ranks_[rank].arrived ? "copy"
                                          : "arrive",
                   rank));
}

void SaveMachine::OnParentKnown(const absl::Status& status) {
  if (!Waiting() || parent_known_) return;
  if (!status.ok()) {
    Fail(IoFailure(status, "parent"));
    return;
  }
  parent_known_ = true;
  WritePartIfReady();
}

void SaveMachine::UpdateStage() {
  if (!planned_ || !Waiting()) return;
  const auto all = [this](bool Rank::*field) {
    return std::all_of(ranks_.begin(), ranks_.end(), [field](const Rank& rank) { return rank.*field; });
  };
  Enter(!all(&Rank::copied)   ? SaveStage::kCopy
        : !all(&Rank::sealed) ? SaveStage::kSeal
                              : SaveStage::kPersist);
}

void SaveMachine::WritePartIfReady() {
  const bool ready = std::all_of(ranks_.begin(), ranks_.end(),
                                 [](const Rank& rank) { return rank.copied && rank.sealed && rank.flushed; });
  if (!Waiting() || !ready || !parent_known_) return;
  Enter(SaveStage::kPart);
  part_asked_ = true;
  outbox_.Emit(WritePart{spec_.attempt});
}

void SaveMachine::OnPartWritten(const absl::Status& status, const storage::PartSummary& part) {
  if (stage_ != SaveStage::kPart) return;
  if (!status.ok()) {
    cause_ = IoFailure(status, "part");
    failed_at_ = outbox_.now();
    Enter(SaveStage::kStop);
    outbox_.Emit(StopIo{spec_.attempt});
    owner_.OnFailing(*this);
    return;
  }
  Enter(SaveStage::kCommit);
  RunCommit(part);
}

bool SaveMachine::Fail(Failure cause, SaveState as) {
  if (!Waiting()) return false;
  cause_ = std::move(cause);
  cause_state_ = as;
  failed_at_ = outbox_.now();
  Enter(SaveStage::kStop);
  outbox_.Emit(StopIo{spec_.attempt});
  owner_.OnFailing(*this);
  return true;
}

void SaveMachine::OnIoStopped() {
  if (stage_ != SaveStage::kStop) return;
  if (!started()) {  // nothing of it is on storage
    Decide(cause_state_, cause_);
    EraseAndEnd();
    return;
  }
  Enter(SaveStage::kAbort);
  RunAbort();
}

void SaveMachine::OnTick() {
  const Millis now = outbox_.now();
  if (Waiting() && stage_ != SaveStage::kQueued && now - progress_at_ >= limits_.save_progress_ms) {
    const SaveSnapshot seen = Snapshot();
    const int32_t rank = seen.waiting_for_ranks.empty() ? -1 : seen.waiting_for_ranks.front();
    Fail(MakeFailure(
        absl::StatusCode::kDeadlineExceeded, "NO_PROGRESS",
        absl::StrCat("Save ", spec_.number, " made no progress for ", limits_.save_progress_ms / 1000,
                     " s, waiting for rank ", RankList(seen.waiting_for_ranks), "."),
        StageName(seen.stage), rank));
  }
  if (!failing() || decided_) return;
  if (now - failed_at_ < (no_room_ ? limits_.no_room_ms : limits_.abort_report_ms)) return;
  if (part_asked_) {  // storage does not answer, and what is there may yet be committed by a claim or a
                      // restart
    cause_.reason = "DURABILITY_UNCERTAIN";
    cause_state_ = SaveState::kFailed;
  }
  Decide(cause_state_, cause_);
}

SaveSnapshot SaveMachine::Snapshot() const {
  SaveSnapshot snapshot{.number = spec_.number,
                        .attempt = spec_.attempt,
                        .step = spec_.step,
                        .stage = stage_,
                        .accepted_ms = accepted_at_,
                        .stage_since_ms = stage_since_};
  for (int32_t rank = 0; rank < spec_.world_size; ++rank) {
    const Rank& state = ranks_[rank];
    const bool waited = stage_ == SaveStage::kArrive    ? !state.arrived
                        : stage_ == SaveStage::kCopy    ? !state.copied
                        : stage_ == SaveStage::kSeal    ? !state.sealed
                        : stage_ == SaveStage::kPersist ? !state.flushed
                                                        : false;
    if (waited) snapshot.waiting_for_ranks.push_back(rank);
  }
  return snapshot;
}

}  // namespace keepstep::daemon
