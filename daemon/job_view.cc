// What a job shows and remembers of itself. Nothing here decides anything.

#include <algorithm>
#include <future>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "daemon/job.h"

namespace keepstep::daemon {

void Job::SawRank(int32_t rank, pid_t pid, bool open) { ranks_seen_[rank] = {pid, open, Clock::now()}; }

void Job::KeepOutcome(const Verdict& verdict, const AttemptIo* attempt) {
  SaveOutcome outcome{.step = verdict.step,
                      .attempt = verdict.attempt,
                      .state = verdict.state,
                      .failure = verdict.failure,
                      .unix_ms = absl::ToUnixMillis(absl::Now())};
  if (attempt != nullptr) {
    const auto seconds = [&](Clock::time_point to) {
      return std::chrono::duration<double>(to - attempt->started()).count();
    };
    outcome.bytes = attempt->TotalProgress().bytes_total;
    outcome.seconds = seconds(Clock::now());
    outcome.copied_seconds = seconds(attempt->copied());
  }
  outcomes_.push_back(std::move(outcome));
  if (outcomes_.size() > kOutcomesKept) outcomes_.pop_front();
}

SaveInFlight Job::ViewOf(const SaveSnapshot& save) {
  const auto since = [this](Millis at) { return static_cast<double>(Now() - at) / 1000; };
  SaveInFlight view{
      .logic = save, .seconds = since(save.accepted_ms), .stage_seconds = since(save.stage_since_ms)};
  view.idle_seconds = view.stage_seconds;
  const AttemptIo* attempt = FindAttempt(save.attempt);
  if (attempt == nullptr) return view;
  view.progress = attempt->TotalProgress();
  const std::chrono::duration<double> unmoved = Clock::now() - attempt->moved();
  view.idle_seconds = std::min(view.stage_seconds, unmoved.count());
  for (int32_t rank : save.waiting_for_ranks) {
    if (view.waited.size() == kRanksShown) break;
    view.waited[rank] = attempt->ProgressOf(rank);
  }
  return view;
}

void Job::ViewRank(int32_t rank, JobView& view) const {
  const auto seen = ranks_seen_.find(rank);
  if (seen == ranks_seen_.end()) return;
  view.ranks[rank] = {.state = seen->second.open ? RankView::State::kOpen : RankView::State::kGone,
                      .pid = seen->second.pid,
                      .seconds = std::chrono::duration<double>(Clock::now() - seen->second.since).count()};
}

JobView Job::View() {
  auto promise = std::make_shared<std::promise<JobView>>();
  std::future<JobView> future = promise->get_future();
  strand_.Post([self = shared_from_this(), promise] {
    JobView view;
    view.logic = self->machine_.Snapshot();
    view.limits = self->machine_.limits();
    view.outcomes.assign(self->outcomes_.begin(), self->outcomes_.end());
    for (const SaveSnapshot& save : view.logic.saves) {
      view.saves.push_back(self->ViewOf(save));
      for (size_t i = 0; i < std::min(save.waiting_for_ranks.size(), kRanksShown); ++i)
        self->ViewRank(save.waiting_for_ranks[i], view);
    }
    for (size_t i = 0; i < std::min(view.logic.missing_ranks.size(), kRanksShown); ++i)
      self->ViewRank(view.logic.missing_ranks[i], view);
    for (const SaveOutcome& outcome : view.outcomes) {
      if (outcome.failure.rank >= 0) self->ViewRank(outcome.failure.rank, view);
    }
    size_t lost = 0;
    for (const SessionSnapshot& session : view.logic.sessions) {
      if (!session.lost || lost++ >= kRanksShown) continue;
      self->ViewRank(session.rank, view);
      view.ranks[session.rank].state = RankView::State::kLost;
    }
    for (const auto& [id, member] : self->members_) {
      ++(member.session->transfer() == proto::Transfer::kPull ? view.pulling : view.windowed);
    }
    view.rescue = self->last_rescue_;
    promise->set_value(std::move(view));
  });
  return future.get();
}

}  // namespace keepstep::daemon
