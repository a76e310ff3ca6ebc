// Crash flush (docs/gpu.md): keeps the memory of trainers that died, has the machine save it when all of them are dead
// and were whole at one step, and lets it go. The machine decides; the flight records prove.
//
// kept (Keep) → all kept, judged (JudgeIfAllKept, OnJudged) → RescueRequested → RescueStarted: a save whose arguments are
// the records' → each rank copied: Seal → over. Whatever ends it ends all kept sessions of the job.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "daemon/error.h"
#include "daemon/job.h"

namespace keepstep::daemon {

Job::KeptMemory::~KeptMemory() {
  session_->End(MakeError(absl::StatusCode::kAborted, "TRAINER_DIED", "The trainer's process has ended.", "copy"));
  limits_->GiveBack(bytes_);
}

void Job::SessionDied(std::shared_ptr<ClientSession> session) {
  Post([session = std::move(session)](Job& job) {
    const SessionId id = session->id();
    Member* member = job.Find(id);
    if (member != nullptr && job.Keep(id)) return;
    session->End(MakeError(absl::StatusCode::kAborted, "TRAINER_DIED", "The trainer's process has ended.", "copy"));
    if (job.Find(id) != nullptr) job.Bury(id);
  });
}

bool Job::Keep(SessionId id) {
  Member* member = Find(id);
  if (services_.rescue == nullptr || !services_.rescue->enabled() || !member->open) return false;
  LookAtVerdicts(id, *member);  // what it sealed on its way out counts
  member = Find(id);
  if (member == nullptr) return false;
  const int32_t rank = member->rank;
  const std::vector<int32_t> missing = machine_.Snapshot().missing_ranks;
  if (!missing.empty()) {
    GiveUp(absl::StrCat("rank ", missing.front(), ": it was not there"));
    return false;
  }
  const int64_t bytes = member->session->gpu_bytes();
  if (!services_.rescue->Take(bytes)) {
    GiveUp(absl::StrCat("rank ", rank, ": its ", HumanBytes(bytes), " of GPU memory are more than rescue.bytes has left"));
    return false;
  }
  member->kept.emplace();
  member->kept->until = Clock::now() + services_.rescue->hold();
  member->kept->memory = std::make_unique<KeptMemory>(services_.rescue, member->session, bytes);
  SawRank(rank, member->session->peer().pid, /*open=*/false);
  Feed(SessionKept{id});
  JudgeIfAllKept();
  return true;
}

void Job::JudgeIfAllKept() {
  const int32_t world_size = machine_.Snapshot().world_size;
  if (rescue_ || static_cast<int32_t>(ranks_.size()) != world_size) return;
  std::vector<std::shared_ptr<ClientSession>> sessions;
  for (const auto& [rank, id] : ranks_) {
    Member* member = Find(id);
    if (member == nullptr || !member->kept) return;
    sessions.push_back(member->session);
  }
  rescue_.emplace();
  services_.io->Submit([self = shared_from_this(), sessions = std::move(sessions)] {
    std::vector<RankJudgement> ranks;
    for (const auto& session : sessions) ranks.push_back(JudgeRank(*session));
    self->Post([ranks = std::move(ranks)](Job& job) mutable { job.OnJudged(std::move(ranks)); });
  });
}

void Job::OnJudged(std::vector<RankJudgement> ranks) {
  if (!rescue_) return;
  std::vector<RankStep> steps;
  for (const RankJudgement& rank : ranks) steps.push_back(rank.at);
  if (const std::string why = WhyNoRescue(steps); !why.empty()) return EndRescue(why);
  const int64_t step = steps.front().step;
  for (RankJudgement& rank : ranks) {
    Member* member = Find(rank.session);
    if (member == nullptr || !member->kept)
      return EndRescue(absl::StrCat("rank ", rank.at.rank, ": its session had ended"));
    member->kept->judged = std::move(rank);
  }
  Feed(RescueRequested{step});
}

void Job::Do(const RescueStarted& action) {
  if (!rescue_) return;
  *rescue_ = {.number = action.number, .step = action.step, .attempt = action.attempt};
  for (auto& [id, member] : members_) {
    if (!member.kept) continue;
    SaveArgs args = member.kept->judged.args;
    args.number = action.number;
    member.saves[action.number] = std::move(args);
  }
  services_.log->Info(absl::StrCat(label(), "/", action.step, " is saved for its trainers, which have died"),
                      {{"job", label()}, {"step", absl::StrCat(action.step)}, {"attempt", action.attempt}});
}

void Job::Do(const RescueRefused& action) {
  const bool lost = action.failure.reason != "STEP_EXISTS";
  Post([why = action.failure.message, lost](Job& job) {
    if (job.rescue_) job.GiveUp(why, lost);
  });
}

void Job::OnRescueReport(SessionId id, Member& member, const Verdict& status) {
  if (status.state == SaveState::kSnapshotted) return Seal(id, member);
  if (!IsOver(status.state)) return;
  // After the actions that are under way: the other ranks' reports are among them.
  Post([status](Job& job) {
    if (!job.rescue_ || job.rescue_->number != status.number) return;
    if (status.state != SaveState::kCommitted)
      return job.EndRescue(job.rescue_->why.empty() ? status.failure.message : job.rescue_->why);
    job.rescue_.reset();
    job.NoteRescue({.step = status.step});
    job.BuryKept();
  });
}

// The writer is dead; what still ran on its GPU would show in the words.
void Job::Seal(SessionId id, Member& member) {
  const auto now = proto::ReadFlightWords(member.session->flight_record());
  const bool same = now.ok() && proto::SameWords(*now, member.kept->judged.words);
  if (!same) rescue_->why = absl::StrCat("rank ", member.rank, ": its memory was written to while it was copied");
  Feed(VerdictSeen{id, rescue_->number, same});
  member.kept->memory = nullptr;
}

void Job::LookAtHold() {
  for (const auto& [id, member] : members_) {
    if (!member.kept || member.kept->memory == nullptr || Clock::now() < member.kept->until) continue;
    const std::string hold = absl::StrCat("after ", services_.rescue->hold().count() / 1000, " s (rescue.hold) ");
    if (rescue_) return EndRescue(absl::StrCat(hold, "rank ", member.rank, " had not been copied"));
    for (const auto& [rank, session] : ranks_) {
      const Member* other = Find(session);
      if (other != nullptr && !other->kept)
        return EndRescue(absl::StrCat(hold, "rank ", rank, " was still alive"));
    }
    return EndRescue(absl::StrCat(hold, "the job was not whole"));
  }
}

void Job::EndRescue(std::string why) {
  const bool kept =
      std::any_of(members_.begin(), members_.end(), [](const auto& one) { return one.second.kept.has_value(); });
  if (kept || rescue_) GiveUp(std::move(why));
}

void Job::GiveUp(std::string why, bool lost) {
  const bool failed = rescue_ && rescue_->number != 0;
  rescue_.reset();
  if (!lost) {
    services_.log->Info(absl::StrCat(label(), ": nothing was rescued: ", why), {{"job", label()}});
    return BuryKept();
  }
  NoteRescue({.why = failed ? absl::StrCat("the save failed: ", why) : std::move(why)});
  BuryKept();
}

void Job::BuryKept() {
  std::vector<SessionId> kept;
  for (const auto& [id, member] : members_) {
    if (member.kept) kept.push_back(id);
  }
  for (const SessionId id : kept) {
    if (Find(id) != nullptr) Bury(id);
  }
}

void Job::NoteRescue(RescueView view) {
  if (std::exchange(rescue_told_, true)) return;  // one cause, which each further rank's death would repeat
  view.unix_ms = absl::ToUnixMillis(absl::Now());
  if (view.step >= 0) {
    services_.log->Info(absl::StrCat(label(), "/", view.step, " was rescued"),
                        {{"job", label()}, {"step", absl::StrCat(view.step)}});
  } else {
    services_.log->Warn(absl::StrCat(label(), ": nothing was rescued: ", view.why), {{"job", label()}});
  }
  if (services_.metrics != nullptr) services_.metrics->Rescued(view.step >= 0);
  last_rescue_ = std::move(view);
}

}  // namespace keepstep::daemon
