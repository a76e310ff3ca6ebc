#include "daemon/save_tracker.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/error.h"

namespace keepstep::daemon {
namespace {

bool Reached(const v1::SaveStatus& status, SaveState wanted) {
  const auto state = static_cast<SaveState>(status.state());
  return IsOver(state) || state >= wanted;
}

absl::Status UnknownSave(absl::string_view which) {
  return MakeError(absl::StatusCode::kNotFound, "UNKNOWN_SAVE",
                   absl::StrCat("This session has no ", which, ", or it is too long ago."), "wait");
}

}  // namespace

bool IsOver(SaveState state) { return state >= SaveState::kCommitted; }

void SaveTracker::Fill(const Verdict& verdict, const ShareProgress& progress, v1::SaveStatus& status) {
  status.set_number(verdict.number);
  status.set_step(verdict.step);
  if (!verdict.attempt.empty()) status.set_attempt(verdict.attempt);
  status.set_state(static_cast<v1::SaveState>(verdict.state));
  if (verdict.failure.code != absl::StatusCode::kOk) *status.mutable_failure() = ToProto(verdict.failure);
  if (progress.bytes_total > 0) {
    status.set_bytes_total(progress.bytes_total);
    status.set_bytes_copied(progress.bytes_copied);
    status.set_bytes_written(progress.bytes_written);
  }
}

bool SaveTracker::Update(SessionId session, const Verdict& verdict, const ShareProgress& progress) {
  auto& of_session = saves_[session];
  Entry& entry = of_session[verdict.number];
  const auto before = static_cast<SaveState>(entry.status.state());
  if (before != SaveState::kNone && (IsOver(before) || verdict.state <= before)) return false;
  Fill(verdict, progress, entry.status);
  const double seconds = std::chrono::duration<double>(Clock::now() - entry.accepted).count();
  if (verdict.state <= SaveState::kCommitted) {  // a stage that nobody told of was over by now
    if (before < SaveState::kSnapshotted && verdict.state >= SaveState::kSnapshotted)
      entry.status.set_snapshot_seconds(seconds);
    if (before < SaveState::kPersisted && verdict.state >= SaveState::kPersisted)
      entry.status.set_persist_seconds(seconds);
    if (verdict.state == SaveState::kCommitted) entry.status.set_commit_seconds(seconds);
  }
  const v1::SaveStatus told = entry.status;
  if (of_session.size() > kKept) of_session.erase(of_session.begin());
  Tell(session, told);
  return true;
}

v1::SaveStatus SaveTracker::Status(SessionId session, const Verdict& verdict,
                                   const ShareProgress& progress) const {
  v1::SaveStatus status;
  auto of_session = saves_.find(session);
  if (of_session != saves_.end()) {
    auto entry = of_session->second.find(verdict.number);
    if (entry != of_session->second.end()) status = entry->second.status;
  }
  Fill(verdict, progress, status);
  return status;
}

void SaveTracker::Tell(SessionId session, const v1::SaveStatus& status) {
  std::vector<WaitDone> reached;
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    Waiter& waiter = it->second;
    if (waiter.session == session && waiter.number == status.number() && Reached(status, waiter.state)) {
      reached.push_back(std::move(waiter.done));
      it = waiters_.erase(it);
    } else {
      ++it;
    }
  }
  for (WaitDone& done : reached) done(status);
  for (auto& [ticket, watcher] : watchers_) {
    if (watcher.first == session) watcher.second(status);
  }
}

uint64_t SaveTracker::Wait(SessionId session, uint64_t number, SaveState state, WaitDone done) {
  const auto of_session = saves_.find(session);
  const Entry* entry = nullptr;
  if (of_session != saves_.end()) {
    const auto found = of_session->second.find(number);
    if (found != of_session->second.end()) entry = &found->second;
  }
  if (entry == nullptr) {
    done(UnknownSave(absl::StrCat("save ", number)));
    return 0;
  }
  if (Reached(entry->status, state)) {
    done(entry->status);
    return 0;
  }
  waiters_[next_ticket_] = {session, number, state, std::move(done)};
  return next_ticket_++;
}

uint64_t SaveTracker::WaitForStep(SessionId session, int64_t step, SaveState state, WaitDone done) {
  if (const auto of_session = saves_.find(session); of_session != saves_.end()) {
    for (auto entry = of_session->second.rbegin(); entry != of_session->second.rend(); ++entry) {
      if (entry->second.status.step() == step) return Wait(session, entry->first, state, std::move(done));
    }
  }
  done(UnknownSave(absl::StrCat("save of step ", step)));
  return 0;
}

void SaveTracker::Unwait(uint64_t ticket) { waiters_.erase(ticket); }

uint64_t SaveTracker::Watch(SessionId session, Watcher watcher) {
  watchers_[next_ticket_] = {session, std::move(watcher)};
  return next_ticket_++;
}

void SaveTracker::Unwatch(uint64_t ticket) { watchers_.erase(ticket); }

void SaveTracker::Forget(SessionId session, const absl::Status& why) {
  saves_.erase(session);
  std::vector<WaitDone> waiting;
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    if (it->second.session == session) {
      waiting.push_back(std::move(it->second.done));
      it = waiters_.erase(it);
    } else {
      ++it;
    }
  }
  for (WaitDone& done : waiting) done(why);
}

}  // namespace keepstep::daemon
