// The coordinator's view of ranks that come, go, resume and move, and of wishes from outside: cancel, drain,
// save_at.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/logic/coordinator.h"
#include "daemon/logic/failures.h"
#include "storage/attempt.h"

namespace keepstep::daemon {

SaveMachine* Coordinator::Find(const std::string& attempt) {
  for (const auto& save : saves_) {
    if (save->spec().attempt == attempt) return save.get();
  }
  return nullptr;
}

void Coordinator::AfterEvent() {
  StartQueued();
  Forget();
  FinishDrain();
}

void Coordinator::OnTick() {
  // Deciding a save does not change the list; AfterEvent does.
  for (const auto& save : saves_) save->OnTick();
  while (!held_.empty() && outbox_.now() - held_.front().since >= limits_.roster_ms) {
    const SaveRequested request = held_.front().request;
    held_.pop_front();
    if (Session* session = world_.Find(request.session)) Arrive(*session, request);
  }
}

void Coordinator::OnVerdict(const VerdictSeen& seen) {
  Session* session = world_.Find(seen.session);
  if (session == nullptr) return;
  auto record = records_.find(seen.number);
  if (record != records_.end() && record->second.save) {
    if (!record->second.final) record->second.save->OnVerdict(session->rank, seen.sealed);
    return;
  }
  if (seen.sealed || record != records_.end()) return;
  // Poisoned before it was judged: held here, or its request is still on its way.
  Failure failure = MakeFailure(absl::StatusCode::kAborted, "POISONED",
                                absl::StrCat("Rank ", session->rank, " stopped waiting before save ",
                                             seen.number, " was started: it would be torn."),
                                "seal", session->rank);
  auto held = std::find_if(held_.begin(), held_.end(), [&](const Held& each) {
    return each.request.session == seen.session && each.request.number == seen.number;
  });
  if (held != held_.end()) {
    const SaveRequested request = held->request;
    held_.erase(held);
    Refuse(*session, request, std::move(failure));
  } else if (seen.number == session->last_number + 1) {
    records_[seen.number].final =
        Verdict{.number = seen.number, .state = SaveState::kFailed, .failure = std::move(failure)};
  }
}

void Coordinator::Refuse(Session& session, const SaveRequested& request, Failure failure) {
  Record& record = records_[request.number];
  record.asked = true;
  record.asked_by.insert(session.id);
  record.step = request.step;
  if (!record.final) {
    record.final = Verdict{.number = request.number,
                           .step = request.step,
                           .state = SaveState::kFailed,
                           .failure = std::move(failure)};
  }
  session.last_number = std::max(session.last_number, request.number);
  Answer(session, request.number, record);
  ReleaseAll(session, request.number);
}

void Coordinator::RefuseHeld(SessionId session, const Failure& failure) {
  for (auto held = held_.begin(); held != held_.end();) {
    if (held->request.session != session) {
      ++held;
      continue;
    }
    const SaveRequested request = held->request;
    held = held_.erase(held);
    outbox_.Emit(AnswerSave{.session = session,
                            .number = request.number,
                            .status = {.number = request.number,
                                       .step = request.step,
                                       .state = SaveState::kFailed,
                                       .failure = failure}});
    if (Session* known = world_.Find(session)) ReleaseAll(*known, request.number);
  }
}

void Coordinator::OnRankDead(int32_t rank) {
  for (const auto& save : saves_) {
    if (save->spec().epoch == world_.epoch) save->OnRankDead(rank);
  }
}

void Coordinator::OnResumed(SessionId old_session, Session& session, uint64_t saves_issued) {
  if (old_session == session.id) return;  // the same pages: nothing was let through
  session.last_number = std::max(session.last_number, saves_issued);
  session.saved = session.saved || (saves_issued > 0 && (!records_.empty() || !committed_steps_.empty()));
  session.releases.ReleasedUpTo(saves_issued);
  for (auto& [number, record] : records_) {
    const bool asked = record.asked_by.erase(old_session) > 0;
    const bool same_world = record.save && record.save->spec().epoch == world_.epoch;
    if (asked || (same_world && record.save->arrived(session.rank))) record.asked_by.insert(session.id);
    if (!record.save || record.final || number > saves_issued) continue;
    if (!same_world) continue;
    record.save->OnSessionReplaced(session.rank, session.id);
    if (record.save->copied(session.rank)) continue;
    Failure lost = LostByRestart(number);
    if (old_session != 0) {
      lost = MakeFailure(absl::StatusCode::kAborted, "SESSION_RESUMED",
                         absl::StrCat("Rank ", session.rank, " lost its session while save ", number,
                                      " was being copied. Earlier checkpoints are intact; save again."),
                         "copy", session.rank);
    }
    lost.rank = session.rank;
    record.save->Fail(std::move(lost));
  }
  lost_up_to_ = std::max(lost_up_to_, saves_issued);
}

std::vector<Verdict> Coordinator::Unsettled(const Session& session, uint64_t saves_issued) const {
  std::vector<Verdict> verdicts;
  const uint64_t count = std::min<uint64_t>(saves_issued, limits_.verdict_history);
  for (uint64_t left = count; left > 0; --left) {  // the number itself may be the largest that there is
    const uint64_t number = saves_issued - left + 1;
    auto record = records_.find(number);
    const bool known = record != records_.end() && (record->second.final || record->second.save);
    verdicts.push_back(
        known ? StatusFor(session, number, record->second)
              : Verdict{.number = number, .state = SaveState::kFailed, .failure = LostByRestart(number)});
  }
  return verdicts;
}

void Coordinator::Remember(const Verdict& verdict) {
  if (verdict.state == SaveState::kCommitted && untrusted_.contains(verdict.attempt)) return;
  if (verdict.state == SaveState::kCommitted) {
    committed_steps_.insert(verdict.step);
    if (verdict.step > last_step_) {
      last_step_ = verdict.step;
      last_attempt_ = verdict.attempt;
    }
  }
  if (verdict.number == 0) return;  // not a save of the ranks
  Record& record = records_[verdict.number];
  record.step = verdict.step;
  if (!record.final || verdict.state == SaveState::kCommitted) record.final = verdict;
}

void Coordinator::FailSaves(bool sealed_too, const Failure& cause) {
  for (const auto& save : saves_) {
    if (sealed_too || !save->sealed()) save->Fail(cause);
  }
}

bool Coordinator::Quiet() const {
  return std::all_of(saves_.begin(), saves_.end(), [](const auto& save) { return save->decided(); });
}

void Coordinator::OnEpochChanged(bool same_world) {
  committed_steps_.clear();
  ranks_have_committed_ = false;
  last_step_ = -1;
  last_attempt_.clear();
  if (!same_world) {
    records_.clear();
    undelivered_.clear();
    lost_up_to_ = 0;
    planned_.clear();
  }
}

std::set<std::string> Coordinator::LiveAttempts() const {
  std::set<std::string> attempts = untrusted_;
  for (const auto& save : saves_) {
    if (!save->decided() || save->failing()) attempts.insert(save->spec().attempt);
  }
  return attempts;
}

void Coordinator::OnCancel(const CancelRequested& request) {
  for (const auto& save : saves_) {
    const SaveMachine::Spec& spec = save->spec();
    auto record = records_.find(spec.number);
    if (spec.epoch != world_.epoch || spec.step != request.step || record == records_.end()) continue;
    record->second.cancel_tickets.push_back(request.ticket);  // first: the failure may be decided at once
    if (save->Fail(MakeFailure(absl::StatusCode::kCancelled, "CANCELLED",
                               absl::StrCat("Save ", spec.number, " was cancelled on request."), "cancel"),
                   SaveState::kCancelled)) {
      return;
    }
    record->second.cancel_tickets.pop_back();
  }
  outbox_.Emit(AnswerCancel{.ticket = request.ticket, .cancelled = 0});
}

void Coordinator::OnDrain() {
  if (!draining_) drain_since_ = outbox_.now();
  draining_ = true;
  drained_ = false;
  for (const auto& save : saves_) {
    if (save->stage() == SaveStage::kQueued) save->Fail(Draining());
  }
  while (!held_.empty()) {
    const SaveRequested request = held_.front().request;
    held_.pop_front();
    if (Session* session = world_.Find(request.session)) Arrive(*session, request);
  }
}

void Coordinator::FinishDrain() {
  if (!draining_ || drained_) return;
  const int64_t undecided =
      std::count_if(saves_.begin(), saves_.end(), [](const auto& save) { return !save->decided(); });
  if (undecided > 0 && outbox_.now() - drain_since_ < limits_.drain_ms) return;
  drained_ = true;
  outbox_.Emit(Drained{static_cast<int32_t>(undecided)});
}

void Coordinator::OnSaveWished() { save_at_.Wish(); }

void Coordinator::OnStepsSeen(const StepsSeen& seen) {
  if (static_cast<int32_t>(seen.stepped.size()) != world_.size) return;  // some rank is not there to be asked
  if (std::optional<int64_t> step = save_at_.OnSteps(seen.stepped)) outbox_.Emit(SetSaveAt{*step});
  for (const auto& save : saves_) {
    const SaveMachine::Spec& spec = save->spec();
    if (spec.epoch != world_.epoch || spec.step != save_at_.step() || save->failing()) continue;
    for (int32_t rank = 0; rank < spec.world_size; ++rank) {
      if (save->arrived(rank) || seen.stepped[rank] <= spec.step) continue;
      save->Fail(MakeFailure(
          absl::StatusCode::kFailedPrecondition, "SAVE_AT_PASSED",
          absl::StrCat("Rank ", rank, " was past step ", spec.step, " when the save was asked for."),
          "arrive", rank));
      break;
    }
  }
}

std::vector<std::string> Coordinator::Fingerprints() {
  std::vector<std::string> fingerprints(world_.size);
  for (const auto& [id, session] : world_.sessions) fingerprints[session.rank] = session.fingerprint;
  return fingerprints;
}

void Coordinator::FillSnapshot(JobSnapshot& snapshot) const {
  for (const auto& save : saves_) {
    if (!save->over()) snapshot.saves.push_back(save->Snapshot());
  }
  snapshot.draining = draining_;
  snapshot.save_at = save_at_.step();
  snapshot.last_committed_step = last_step_;
  snapshot.last_committed_attempt = last_attempt_;
}

}  // namespace keepstep::daemon
