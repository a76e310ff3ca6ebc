#include "daemon/status_view.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "daemon/health.h"
#include "daemon/job_facts.h"
#include "daemon/version.h"
#include "storage/delete.h"

namespace keepstep::daemon {
namespace {

FlightView Flight(const std::string& job, const SaveInFlight& save) {
  const ShareProgress& bytes = save.progress;
  const bool copying = save.logic.stage <= SaveStage::kCopy;
  FlightView flight{.job = job,
                    .step = save.logic.step,
                    .stage = StageName(save.logic.stage),
                    .total_bytes = bytes.bytes_total,
                    .done_bytes = copying ? bytes.bytes_copied : bytes.bytes_written,
                    .seconds = save.seconds,
                    .stuck = IsStuck(save),
                    .waiting_for_ranks = save.logic.waiting_for_ranks};
  if (flight.waiting_for_ranks.size() > kRanksShown) flight.waiting_for_ranks.resize(kRanksShown);
  if (save.seconds > 0) flight.bytes_per_second = static_cast<double>(flight.done_bytes) / save.seconds;
  if (flight.bytes_per_second > 0 && !flight.stuck)
    flight.seconds_left =
        static_cast<double>(flight.total_bytes - flight.done_bytes) / flight.bytes_per_second;
  return flight;
}

void AddCheckpoints(const ServerState& state, const Job& job, JobRow& row, std::vector<Problem>& problems) {
  auto known = state.catalog->ListCheckpoints(job.identity().path);
  if (!known.ok()) {
    problems.push_back({.job = job.label(),
                        .severity = Problem::Severity::kWarning,
                        .kind = "catalog",
                        .sentence = absl::StrCat("The catalog cannot be read: ", known.status().message()),
                        .next = {"keepstep reindex " + job.label()}});
    return;
  }
  row.stored = known->size();
  for (auto it = known->rbegin(); it != known->rend() && row.checkpoints.size() < kCheckpointsShown; ++it) {
    const v1::Decision& decision = it->decision;
    const auto pins = storage::ListPins(*job.store(), decision.step());
    row.checkpoints.push_back({.step = decision.step(),
                               .epoch = decision.epoch(),
                               .bytes = decision.tensor_bytes(),
                               .world_size = decision.world_size(),
                               .unix_ms = decision.time_unix_ms(),
                               .pinned = pins.ok() && !pins->empty()});
  }
}

void AddJob(const ServerState& state, Job& job, StatusView& view) {
  JobFacts facts = Glance(job);
  facts.last_commit_unix_ms = job.last_commit_unix_ms();
  std::vector<Problem> problems = Explain(facts);
  JobRow row{.job = job.label(),
             .directory = job.identity().path,
             .ranks = static_cast<int32_t>(facts.view.logic.sessions.size()),
             .world_size = facts.view.logic.world_size,
             .last_commit_unix_ms = facts.last_commit_unix_ms,
             .free_bytes = facts.free_bytes,
             .total_bytes = facts.total_bytes};
  AddCheckpoints(state, job, row, problems);
  row.health = HealthOf(problems);
  for (const SaveInFlight& save : facts.view.saves) view.flights.push_back(Flight(job.label(), save));
  view.problems.insert(view.problems.end(), problems.begin(), problems.end());
  view.jobs.push_back(std::move(row));
}

}  // namespace

StatusView GatherStatus(const ServerState& state, const Viewer& viewer) {
  const absl::Status ready = CheckReady(state);
  StatusView view{.version = kVersion,
                  .io_engine = state.io_engine,
                  .readiness = ready.ok() ? "ready" : std::string(ready.message()),
                  .sessions = state.sessions->size(),
                  .jobs_known = state.jobs->All().size(),
                  .now_unix_ms = absl::ToUnixMillis(absl::Now())};
  view.uptime_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - state.started).count();
  const StagingPool::Stats pool = state.plane->pool().stats();
  view.pool_used_bytes = pool.used_bytes;
  view.pool_limit_bytes = pool.limit_bytes;
  auto jobs = VisibleTo(viewer, *state.jobs);
  std::stable_sort(jobs.begin(), jobs.end(), [](const auto& a, const auto& b) {
    return a->last_commit_unix_ms() > b->last_commit_unix_ms();
  });
  if (jobs.size() > kJobsShown) jobs.resize(kJobsShown);
  for (const auto& job : jobs) AddJob(state, *job, view);
  for (const std::string& directory :
       viewer.is_operator ? state.jobs->Detached() : std::vector<std::string>()) {
    for (Problem& problem : Explain(DetachedFacts(directory))) view.problems.push_back(std::move(problem));
  }
  std::stable_sort(view.problems.begin(), view.problems.end(),
                   [](const Problem& a, const Problem& b) { return a.severity > b.severity; });
  return view;
}

}  // namespace keepstep::daemon
