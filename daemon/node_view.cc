#include "daemon/node_view.h"

#include <algorithm>
#include <string>
#include <vector>

#include "daemon/error.h"
#include "daemon/logic/snapshot.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kOutcomesShown = 8;

const char* OutcomeName(SaveState state) {
  return state == SaveState::kCommitted    ? "committed"
         : state == SaveState::kSkipped    ? "skipped"
         : state == SaveState::kSuperseded ? "superseded"
         : state == SaveState::kCancelled  ? "cancelled"
                                           : "failed";
}

void FillSave(const SaveInFlight& save, v1::SaveInFlight& out) {
  out.set_step(save.logic.step);
  out.set_attempt(save.logic.attempt);
  out.set_stage(StageName(save.logic.stage));
  out.set_bytes_total(save.progress.bytes_total);
  out.set_bytes_done(save.progress.bytes_copied);
  out.set_bytes_written(save.progress.bytes_written);
  out.set_seconds(save.seconds);
  out.set_stage_seconds(save.stage_seconds);
  out.set_idle_seconds(save.idle_seconds);
  out.set_stuck(IsStuck(save));
  for (int32_t rank : save.logic.waiting_for_ranks) out.add_waiting_for_ranks(rank);
}

void FillOutcomes(const std::vector<SaveOutcome>& outcomes, v1::JobStatus& out) {
  for (size_t i = outcomes.size() - std::min(outcomes.size(), kOutcomesShown); i < outcomes.size(); ++i) {
    const SaveOutcome& one = outcomes[i];
    v1::SaveOutcome& to = *out.add_outcomes();
    to.set_step(one.step);
    to.set_attempt(one.attempt);
    to.set_outcome(OutcomeName(one.state));
    if (one.failure.code != absl::StatusCode::kOk) *to.mutable_failure() = ToProto(one.failure);
    to.set_unix_ms(one.unix_ms);
    to.set_bytes(one.bytes);
    to.set_seconds(one.seconds);
  }
  std::vector<double> copied;
  for (const SaveOutcome& outcome : outcomes) {
    if (outcome.state == SaveState::kCommitted) copied.push_back(outcome.copied_seconds);
  }
  if (copied.empty()) return;
  std::sort(copied.begin(), copied.end());
  out.set_copied_p99_seconds(copied[(copied.size() - 1) * 99 / 100]);
}

}  // namespace

void FillJob(const JobFacts& facts, v1::JobStatus& out) {
  const JobView& view = facts.view;
  out.set_job(facts.job);
  out.set_directory(facts.directory);
  out.set_epoch(view.logic.epoch);
  out.set_last_step(facts.last_step);
  out.set_last_commit_unix_ms(facts.last_commit_unix_ms);
  for (const SaveInFlight& save : view.saves) FillSave(save, *out.add_in_flight());
  FillOutcomes(view.outcomes, out);
  const std::vector<Problem> problems = Explain(facts);
  out.set_health(HealthOf(problems));
  for (const Problem& problem : problems) *out.add_problems() = ToProto(problem);
  out.set_ranks(static_cast<int32_t>(view.logic.sessions.size()));
  out.set_world_size(view.logic.world_size);
  out.set_transfer(view.windowed == 0  ? (view.pulling == 0 ? "" : "pull")
                   : view.pulling == 0 ? "window"
                                       : "mixed");
  out.set_free_bytes(facts.free_bytes);
  out.set_total_bytes(facts.total_bytes);
}

v1::Problem ToProto(const Problem& problem) {
  v1::Problem out;
  out.set_job(problem.job);
  out.set_step(problem.step);
  out.set_severity(static_cast<v1::Problem::Severity>(problem.severity));
  out.set_kind(problem.kind);
  out.set_sentence(problem.sentence);
  for (const std::string& line : problem.details) out.add_details(line);
  for (const std::string& command : problem.next) out.add_next(command);
  return out;
}

}  // namespace keepstep::daemon
