// What holds up one save, or ended it.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/why_text.h"

namespace keepstep::daemon {
namespace {

constexpr char kStopped = 'T';  // of /proc/PID/stat: SIGSTOP, a debugger

bool IsStopped(const JobFacts& facts, int32_t rank) {
  const auto state = facts.process_states.find(rank);
  return state != facts.process_states.end() && (state->second == kStopped || state->second == 't');
}

// Whether updates wait until this stage is over.
bool HoldsUpdates(SaveStage stage) { return stage >= SaveStage::kJournal && stage <= SaveStage::kCopy; }

std::string RankDetail(const JobFacts& facts, const SaveInFlight& save, int32_t rank) {
  std::string text = RankText(facts, rank);
  const auto share = save.waited.find(rank);
  const ShareProgress done = share == save.waited.end() ? ShareProgress{} : share->second;
  if (save.logic.stage == SaveStage::kCopy && done.bytes_total > 0)
    absl::StrAppend(&text, ", ", Of(done.bytes_copied, done.bytes_total), " copied");
  if (save.logic.stage == SaveStage::kPersist && done.bytes_total > 0)
    absl::StrAppend(&text, ", ", Of(done.bytes_written, done.bytes_total), " written");
  const auto seen = facts.view.ranks.find(rank);
  const RankView::State state = seen == facts.view.ranks.end() ? RankView::State::kNever : seen->second.state;
  if (IsStopped(facts, rank)) absl::StrAppend(&text, ", whose process is stopped (a signal or a debugger)");
  if (state == RankView::State::kLost) absl::StrAppend(&text, ", whose connection is lost");
  if (state == RankView::State::kGone) absl::StrAppend(&text, ", whose process has ended");
  return text;
}

std::string WaitedRanks(const JobFacts& facts, const SaveInFlight& save) {
  const std::vector<int32_t>& ranks = save.logic.waiting_for_ranks;
  std::vector<std::string> shown;
  for (size_t i = 0; i < std::min(ranks.size(), kRanksShown); ++i)
    shown.push_back(RankDetail(facts, save, ranks[i]));
  return absl::StrCat(
      "Waiting for ", ranks.size(), " of ", facts.view.logic.world_size,
      " ranks: ", absl::StrJoin(shown, "; "),
      ranks.size() > kRanksShown ? absl::StrCat("; and ", ranks.size() - kRanksShown, " more") : "");
}

// What a stage does when it is not waiting for anybody in particular, or what its ranks have yet to do.
std::string StageText(const JobFacts& facts, const SaveInFlight& save) {
  switch (save.logic.stage) {
    case SaveStage::kQueued:
      return "It waits until an earlier save is decided.";
    case SaveStage::kJournal:
      return "Its journal entry is not durable yet: the daemon's state directory is slow or full.";
    case SaveStage::kArrive:
      return absl::StrCat(WaitedRanks(facts, save), ". They have not called save for this step.");
    case SaveStage::kPlan:
      return "It is being planned from what the ranks have registered.";
    case SaveStage::kCopy:
      return absl::StrCat(WaitedRanks(facts, save), ".");
    case SaveStage::kSeal:
      return absl::StrCat(WaitedRanks(facts, save),
                          ". Their clients have yet to confirm that nothing changed while it was copied.");
    case SaveStage::kPersist:
      return absl::StrCat(WaitedRanks(facts, save), ". The storage takes nothing more, or very slowly.");
    case SaveStage::kPart:
    case SaveStage::kCommit:
      return absl::StrCat("Every byte is durable; the record that commits it is not: ", facts.directory,
                          " is slow, or does not answer.");
    case SaveStage::kStop:
      return "It was given up; its copying and writing are being stopped.";
    case SaveStage::kAbort:
      return absl::StrCat("It was given up; the record that says so is not durable yet: ", facts.directory,
                          " is slow, or does not answer.");
    case SaveStage::kOver:
      return "It is over.";
  }
  return "";
}

struct Advice {
  const char* reason;
  const char* text;
};
constexpr Advice kAdvice[] = {
    {"DISK_FULL", "Free space; the next save starts afresh."},
    {"STORE_FAILED", "A store operation failed; the next save starts afresh."},
    {"TRAINER_DIED", "Start the rank again: it takes its place, or the job goes on from the last good step."},
    {"TRAINER_LOST", "Start the rank again: it takes its place, or the job goes on from the last good step."},
    {"UPDATED_DURING_SAVE", "The training loop has to call before_update before it changes a tensor."},
    {"POISONED", "A client's watchdog opened its gate: the daemon did not answer or copied too slowly."},
    {"NO_PROGRESS", "Look at what it waited for; training was not held up by it."},
    {"SAVE_NOT_SENT", "Every rank has to call save for the same steps."},
    {"HOLES", "The ranks' boxes have to cover every tensor."},
    {"LOST_BY_RESTART", "The next save is not affected."},
    {"DURABILITY_UNCERTAIN", "It is not counted as committed; `keepstep ls` shows what can be loaded."},
};

}  // namespace

bool IsStuck(const SaveInFlight& save) {
  // A queued save waits for those before it; if they are stuck, they are the problem.
  return save.logic.stage != SaveStage::kQueued && save.logic.stage != SaveStage::kOver &&
         save.idle_seconds >= kStuckSeconds;
}

Problem ExplainStuck(const JobFacts& facts, const SaveInFlight& save) {
  const SaveStage stage = save.logic.stage;
  Problem problem{
      .job = facts.job, .step = save.logic.step, .severity = Problem::Severity::kError, .kind = "stuck"};
  problem.sentence =
      absl::StrCat("STUCK in ", StageName(stage), " for ", Duration(save.idle_seconds), ". ",
                   HoldsUpdates(stage) ? "Training waits at its next update; " : "Training goes on; ",
                   LastGood(facts), ".");
  problem.details.push_back(StageText(facts, save));
  if (stage == SaveStage::kPersist && SpaceIsTight(facts)) {
    problem.details.push_back(absl::StrCat("Only ", SpaceText(facts), "."));
    problem.next.push_back(absl::StrCat("keepstep gc ", facts.job, " --dry-run"));
  }
  if (stage >= SaveStage::kArrive && stage <= SaveStage::kPersist) {
    const int64_t until = facts.now_unix_ms + facts.view.limits.save_progress_ms -
                          static_cast<int64_t>(save.idle_seconds * 1000);
    problem.details.push_back(absl::StrCat("If nothing moves until ", ClockTime(until), ", step ",
                                           save.logic.step, " alone fails."));
  }
  for (int32_t rank : save.logic.waiting_for_ranks) {
    const auto seen = facts.view.ranks.find(rank);
    if (seen == facts.view.ranks.end() || !IsStopped(facts, rank)) continue;
    problem.next.push_back(absl::StrCat("kill -CONT ", seen->second.pid));
    break;
  }
  if (stage == SaveStage::kPersist || stage >= SaveStage::kPart || stage == SaveStage::kJournal)
    problem.next.emplace_back("keepstep doctor");
  problem.next.push_back(absl::StrCat("keepstep logs ", facts.job));
  if (stage < SaveStage::kPart)
    problem.next.push_back(absl::StrCat("keepstep cancel ", facts.job, "/", save.logic.step));
  return problem;
}

Problem ExplainFailed(const JobFacts& facts, const SaveOutcome& outcome, int in_a_row) {
  const Failure& failure = outcome.failure;
  Problem problem{
      .job = facts.job, .step = outcome.step, .severity = Problem::Severity::kError, .kind = "save failed"};
  problem.sentence = absl::StrCat(
      "Step ", outcome.step, " FAILED", failure.stage.empty() ? "" : absl::StrCat(" in ", failure.stage), " ",
      Ago(facts, outcome.unix_ms), in_a_row > 1 ? absl::StrCat(", as did ", in_a_row - 1, " before it") : "",
      ". Training goes on; ", LastGood(facts), ".");
  const bool names_rank =
      failure.rank >= 0 && !absl::StrContains(failure.message, absl::StrCat("ank ", failure.rank));
  problem.details.push_back(
      absl::StrCat(names_rank ? absl::StrCat(RankText(facts, failure.rank), ": ") : "", failure.message,
                   failure.reason.empty() ? "" : absl::StrCat(" [", failure.reason, "]")));
  for (const Advice& advice : kAdvice) {
    if (failure.reason == advice.reason) problem.details.emplace_back(advice.text);
  }
  const bool no_space = failure.code == absl::StatusCode::kResourceExhausted;
  if (no_space && facts.total_bytes > 0) problem.details.push_back(absl::StrCat(SpaceText(facts), " now."));
  if (no_space) problem.next.push_back(absl::StrCat("keepstep gc ", facts.job, " --dry-run"));
  if (failure.stage == "write" || failure.stage == "flush" || failure.stage == "commit" || no_space)
    problem.next.emplace_back("keepstep doctor");
  problem.next.push_back(absl::StrCat("keepstep logs ", facts.job));
  return problem;
}

}  // namespace keepstep::daemon
