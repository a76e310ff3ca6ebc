// Crash flush in the simulated daemon: what daemon/job_rescue.cc does around the machine, step by step, with the same
// rules for what a record proves (proto/flight_reader.h) and what the records of all ranks do (daemon/rescue_steps.h).

#include <algorithm>
#include <utility>
#include <variant>

#include "tests/sim/sim_daemon.h"

namespace keepstep::sim {

using daemon::SaveState;
using daemon::SessionId;

namespace {

// Longer than a slow copy, and than a new run waits for a judgement.
constexpr int64_t kHoldMs = 1'200;
// What it takes to read a record; the slow ones of a world take longer together than a new run waits for them.
constexpr int64_t kReadMs = 15, kSlowReadMs = 150;

}  // namespace

void SimDaemon::NoteMember(const daemon::Event& event) {
  if (const auto* opened = std::get_if<daemon::SessionOpened>(&event)) {
    members_[opened->session].rank = opened->rank;
  } else if (const auto* registered = std::get_if<daemon::Registered>(&event)) {
    const auto member = members_.find(registered->session);
    if (member != members_.end()) member->second.generation = registered->generation;
  }
}

void SimDaemon::OnOpened(const daemon::AnswerOpen& answer) {
  const auto opened = members_.find(answer.session);
  if (opened == members_.end()) return;
  if (answer.failure.code != absl::StatusCode::kOk) {
    members_.erase(opened);
    return;
  }
  opened->second.open = true;
  for (auto other = members_.begin(); other != members_.end();) {
    const bool before = other != opened && other->second.open && other->second.rank == opened->second.rank;
    if (before) kept_.erase(other->first);
    other = before ? members_.erase(other) : std::next(other);
  }
}

void SimDaemon::OnClosed(SessionId session) {
  members_.erase(session);
  if (kept_.erase(session) != 0) Post(0, [this] { EndRescue(); });
}

void SimDaemon::Died(SessionId session) {
  if (!up()) return;
  last_arrival_ = std::max(last_arrival_, p_.clock.now() + p_.random.Between(0, 3));
  Post(last_arrival_ - p_.clock.now(), [this, session] {
    if (!Keep(session)) Bury(session);
  });
}

void SimDaemon::Left(SessionId session) {
  if (!up()) return;
  last_arrival_ = std::max(last_arrival_, p_.clock.now() + p_.random.Between(0, 3));
  Post(last_arrival_ - p_.clock.now(), [this, session] {
    Bury(session);
    EndRescue();
  });
}

void SimDaemon::Bury(SessionId session) {
  members_.erase(session);
  Feed(daemon::SessionDead{session});
}

bool SimDaemon::Keep(SessionId session) {
  const auto member = members_.find(session);
  if (!rescues_on_ || member == members_.end() || !member->second.open) return false;
  if (!machine_->Snapshot().missing_ranks.empty()) {
    EndRescue();
    return false;
  }
  kept_[session].until = p_.clock.now() + kHoldMs;
  Feed(daemon::SessionKept{session});
  JudgeIfAllKept();
  return true;
}

void SimDaemon::JudgeIfAllKept() {
  std::vector<RankJudged> ranks;
  for (const auto& [session, member] : members_) {
    if (!member.open) continue;
    if (!kept_.contains(session)) return;
    ranks.push_back({.session = session, .at = {.rank = member.rank}});
  }
  if (rescue_ || static_cast<int32_t>(ranks.size()) != machine_->Snapshot().world_size) return;
  rescue_.emplace();
  JudgeNext(std::move(ranks), 0);
}

void SimDaemon::JudgeNext(std::vector<RankJudged> ranks, size_t next) {
  Post(p_.random.Between(0, p_.random.Chance(0.3) ? kSlowReadMs : kReadMs), [this, ranks = std::move(ranks), next]() mutable {
    if (next == ranks.size()) {
      OnJudged(ranks);
      return;
    }
    RankJudged& rank = ranks[next];
    proto::FlightRecord record = p_.trainers.Record(rank.session);
    rank.words = record.words;
    if (mutation_ == Mutation::kRescueHalfRun) std::copy_n(record.words.done, proto::kMaxGroups, record.words.begun);
    const auto member = members_.find(rank.session);
    const uint64_t generation = member == members_.end() ? 0 : member->second.generation;
    if (const proto::FlightNote* note = proto::WholeNote(record, generation, &rank.at.why)) {
      rank.at.step = note->slot.step;
      rank.at.why.clear();
    }
    JudgeNext(std::move(ranks), next + 1);
  });
}

void SimDaemon::OnJudged(const std::vector<RankJudged>& ranks) {
  if (!rescue_) return;
  std::vector<daemon::RankStep> steps;
  for (const RankJudged& rank : ranks) {
    const auto kept = kept_.find(rank.session);
    if (kept == kept_.end()) return EndRescue();
    kept->second.words = rank.words;
    steps.push_back(rank.at);
    if (mutation_ == Mutation::kRescueAcrossSteps && rank.at.why.empty()) steps.back().step = steps.front().step;
  }
  if (!daemon::WhyNoRescue(steps).empty()) return EndRescue();
  Feed(daemon::RescueRequested{steps.front().step});
}

void SimDaemon::OnRescueStarted(const daemon::RescueStarted& started) {
  rescues_.insert(started.attempt);
  p_.checker.OnRescue(started.attempt);
  if (rescue_) *rescue_ = {.number = started.number, .step = started.step, .attempt = started.attempt};
}

void SimDaemon::OnRescueReport(SessionId session, const daemon::Verdict& status) {
  if (!rescue_ || rescue_->number != status.number || !kept_.contains(session)) return;
  if (status.state == SaveState::kSnapshotted) return SealRescued(session);
  if (status.state < SaveState::kCommitted) return;
  Post(0, [this, number = status.number] {
    if (rescue_ && rescue_->number == number) EndRescue();
  });
}

// The writer is dead; what still ran on its GPU shows in the words.
void SimDaemon::SealRescued(SessionId session) {
  Kept& kept = kept_.at(session);
  const bool same = mutation_ == Mutation::kSealWithoutWords ||
                    proto::SameWords(p_.trainers.Record(session).words, kept.words);
  kept.memory = false;
  if (same) rescue_seals_.emplace(rescue_->attempt, members_.at(session).rank);
  Post(0, [this, session, number = rescue_->number, same] { Feed(daemon::VerdictSeen{session, number, same}); });
}

void SimDaemon::LookAtHold() {
  const bool over = std::any_of(kept_.begin(), kept_.end(), [this](const auto& one) {
    return one.second.memory && p_.clock.now() >= one.second.until;
  });
  if (over) EndRescue();
}

// Whatever ends it ends all kept sessions.
void SimDaemon::EndRescue() {
  rescue_.reset();
  for (const auto& [session, kept] : std::exchange(kept_, {})) Bury(session);
}

}  // namespace keepstep::sim
