// What becomes of sessions: who may begin one, what a client's news mean, and what its end leaves.

#include <fcntl.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/daemon_parts.h"
#include "daemon/error.h"

namespace keepstep::daemon {

void Daemon::Parts::EndSession(SessionId id, absl::Status why) {
  if (!sessions.Remove(id, std::move(why))) return;
  std::lock_guard guard(handoff_mutex);
  if (handoff != nullptr) handoff->Forget(id);
}

absl::Status Daemon::Parts::Admit() {
  if (!state.draining) return absl::OkStatus();
  return MakeError(absl::StatusCode::kUnavailable, "DRAINING",
                   "keepstepd is shutting down. Connect again after its restart.", "handoff");
}

void Daemon::Parts::OnNotify(ClientSession& session) {
  const auto member = session.membership();
  if (!member.has_value() || !member->training || !session.NoticeCame()) return;
  member->job->LookAtVerdicts(session.id());
}

void Daemon::Parts::OnLost(ClientSession& session) {
  const auto member = session.membership();
  if (member.has_value() && member->training) {
    member->job->SessionGone(session.id(), false);
    return;
  }
  EndSession(session.id(), absl::CancelledError("The client has gone."));
}

// Before anything else of the session ends.
void Daemon::Parts::KeepMemory(ClientSession& session) {
  const auto member = session.membership();
  const auto registration = session.registration();
  if (!member.has_value() || !member->training || !member->warm || registration == nullptr || session.epoch() == 0) return;
  KeptRank rank{.epoch = session.epoch(),
                .rank = member->rank,
                .world_size = member->world_size,
                .registration = registration,
                .pieces = session.pieces().All(),
                .flight_record = storage::UniqueFd(fcntl(session.flight_record(), F_DUPFD_CLOEXEC, 0))};
  if (rank.pieces.empty() || !rank.flight_record.valid()) return;
  log.Info("memory kept", {{"job", member->job->label()},
                           {"rank", absl::StrCat(member->rank)},
                           {"epoch", absl::StrCat(session.epoch())},
                           {"allocations", absl::StrCat(rank.pieces.size())}});
  kept.Keep(member->job->identity().path, std::move(rank), KeptWorlds::Clock::now());
}

void Daemon::Parts::OnDead(ClientSession& session, bool left) {
  const auto member = session.membership();
  if (!left) KeepMemory(session);
  if (!left && member.has_value() && member->training && session.rescue().granted) {
    if (auto taken = sessions.Take(session.id())) member->job->SessionDied(std::move(taken));
    return;
  }
  if (member.has_value() && member->training) member->job->SessionGone(session.id(), true);
  sessions.Remove(session.id(), MakeError(absl::StatusCode::kAborted, "TRAINER_DIED",
                                          "The trainer's process has ended.", "copy"));
}

}  // namespace keepstep::daemon
