#include "daemon/why.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/log.h"
#include "daemon/why_text.h"

namespace keepstep::daemon {
namespace {

using Severity = Problem::Severity;

Problem Make(const JobFacts& facts, Severity severity, const char* kind, std::string sentence,
             std::vector<std::string> details, std::vector<std::string> next) {
  return {.job = facts.job,
          .severity = severity,
          .kind = kind,
          .sentence = std::move(sentence),
          .details = std::move(details),
          .next = std::move(next)};
}

Problem Detached(const JobFacts& facts) {
  return Make(
      facts, Severity::kWarning, "detached",
      "DETACHED: saves that an earlier daemon left wait for somebody to hand the directory over.",
      {absl::StrCat("This daemon may not open ", facts.directory,
                    " by itself. A trainer that opens it settles them, or any look at it as its owner.")},
      {absl::StrCat("keepstep ls ", facts.directory)});
}

void ExplainWorld(const JobFacts& facts, std::vector<Problem>& problems) {
  const JobSnapshot& logic = facts.view.logic;
  if (!facts.storage_error.empty()) {
    problems.push_back(Make(facts, Severity::kError, "storage",
                            "The job's storage cannot be read: what can be loaded is not known.",
                            {facts.storage_error},
                            {"keepstep doctor", absl::StrCat("ls -ld ", facts.directory)}));
  }
  if (logic.recovering) {
    problems.push_back(Make(facts, Severity::kNote, "recovering",
                            "Recovering: saves and loads wait until what an earlier daemon left is settled.",
                            {}, {absl::StrCat("keepstep logs ", facts.job)}));
    return;
  }
  if (logic.claiming) {
    problems.push_back(Make(facts, Severity::kNote, "takeover",
                            "A new run is taking the job over; the earlier run's saves are settled first.",
                            {}, {absl::StrCat("keepstep logs ", facts.job)}));
    return;
  }
  if (logic.sessions.empty() || logic.missing_ranks.empty()) return;
  std::vector<std::string> names;
  bool gone = false;
  for (size_t i = 0; i < std::min(logic.missing_ranks.size(), kRanksShown); ++i) {
    const int32_t rank = logic.missing_ranks[i];
    const auto seen = facts.view.ranks.find(rank);
    const bool was_here = seen != facts.view.ranks.end() && seen->second.state == RankView::State::kGone;
    gone |= was_here;
    names.push_back(absl::StrCat(RankText(facts, rank),
                                 was_here
                                     ? absl::StrCat(", which ended ", Duration(seen->second.seconds), " ago")
                                     : ", which never joined"));
  }
  if (logic.missing_ranks.size() > kRanksShown)
    names.push_back(absl::StrCat("and ", logic.missing_ranks.size() - kRanksShown, " more"));
  problems.push_back(
      Make(facts, Severity::kWarning, "rank missing",
           absl::StrCat(logic.missing_ranks.size(), " of ", logic.world_size,
                        logic.missing_ranks.size() == 1 ? " ranks is missing" : " ranks are missing",
                        ": saves and loads wait for ", logic.missing_ranks.size() == 1 ? "it" : "them", "; ",
                        LastGood(facts), "."),
           {absl::StrCat("Missing: ", absl::StrJoin(names, "; "), "."),
            gone ? "Start the ended rank again, or all ranks: a new run goes on from the last good step."
                 : "Start every rank of the world."},
           {absl::StrCat("keepstep logs ", facts.job)}));
}

void ExplainLost(const JobFacts& facts, std::vector<Problem>& problems) {
  for (const SessionSnapshot& session : facts.view.logic.sessions) {
    if (!session.lost) continue;
    problems.push_back(
        Make(facts, Severity::kWarning, "rank lost",
             absl::StrCat(RankText(facts, session.rank), " has lost its connection. It may resume within ",
                          facts.view.limits.resume_ms / 1000, " s; then its saves fail."),
             {}, {absl::StrCat("keepstep logs ", facts.job)}));
    return;  // one is enough: they have one cause
  }
}

void ExplainSaves(const JobFacts& facts, std::vector<Problem>& problems) {
  for (const SaveInFlight& save : facts.view.saves) {
    if (IsStuck(save)) problems.push_back(ExplainStuck(facts, save));
  }
  int in_a_row = 0;
  const SaveOutcome* newest = nullptr;
  for (auto it = facts.view.outcomes.rbegin(); it != facts.view.outcomes.rend(); ++it) {
    if (it->state == SaveState::kCommitted) break;
    if (it->state != SaveState::kFailed) continue;
    if (newest == nullptr) newest = &*it;
    ++in_a_row;
  }
  if (newest != nullptr) problems.push_back(ExplainFailed(facts, *newest, in_a_row));
}

// Until something was saved after it.
void ExplainRescue(const JobFacts& facts, std::vector<Problem>& problems) {
  const std::optional<RescueView>& rescue = facts.view.rescue;
  if (!rescue || rescue->step >= 0 || rescue->unix_ms < facts.last_commit_unix_ms) return;
  problems.push_back(Make(facts, Severity::kNote, "no rescue",
                          absl::StrCat("The trainers died ", Ago(facts, rescue->unix_ms),
                                       ", and what they held was not rescued; ", LastGood(facts), "."),
                          {absl::StrCat(rescue->why, ".")}, {absl::StrCat("keepstep logs ", facts.job)}));
}

void ExplainSpace(const JobFacts& facts, std::vector<Problem>& problems) {
  if (!SpaceIsTight(facts)) return;
  for (const Problem& problem : problems) {  // said there already
    if (problem.kind == "stuck" || problem.kind == "save failed") return;
  }
  problems.push_back(Make(facts, Severity::kWarning, "space",
                          absl::StrCat("Space is short: ", SpaceText(facts), "; the next save may not fit."),
                          {}, {absl::StrCat("keepstep gc ", facts.job, " --dry-run")}));
}

Problem InFlight(const JobFacts& facts, const SaveInFlight& save) {
  Problem note{.job = facts.job, .step = save.logic.step, .kind = "in flight"};
  const bool persisting = save.logic.stage > SaveStage::kCopy;
  const int64_t done = persisting ? save.progress.bytes_written : save.progress.bytes_copied;
  note.sentence = absl::StrCat("Step ", save.logic.step, " is in ", StageName(save.logic.stage), " since ",
                               Duration(save.stage_seconds), ": ", Of(done, save.progress.bytes_total),
                               persisting ? " written" : " copied", ". Nothing is wrong.");
  note.next.push_back(absl::StrCat("keepstep watch ", facts.job));
  return note;
}

Problem Ended(const JobFacts& facts, const SaveOutcome& outcome) {
  if (outcome.state == SaveState::kFailed) return ExplainFailed(facts, outcome, 1);
  Problem note{.job = facts.job, .step = outcome.step, .kind = "over"};
  if (outcome.state == SaveState::kCommitted) {
    note.sentence = absl::StrCat("Step ", outcome.step, " was committed ", Ago(facts, outcome.unix_ms), ", ",
                                 HumanBytes(outcome.bytes), " in ", Duration(outcome.seconds), ".");
    if (facts.view.rescue && facts.view.rescue->step == outcome.step)
      note.details.emplace_back("The daemon saved it out of the memory of its trainers, which had died.");
    note.next.push_back(absl::StrCat("keepstep show ", facts.job, "/", outcome.step));
    return note;
  }
  const char* what = outcome.state == SaveState::kSkipped     ? "skipped"
                     : outcome.state == SaveState::kCancelled ? "cancelled"
                                                              : "superseded by a newer save";
  note.sentence = absl::StrCat("Step ", outcome.step, " was ", what, " ", Ago(facts, outcome.unix_ms), "; ",
                               LastGood(facts), ".");
  if (!outcome.failure.message.empty()) note.details.push_back(outcome.failure.message);
  note.next.push_back(absl::StrCat("keepstep ls ", facts.job));
  return note;
}

}  // namespace

std::vector<Problem> Explain(const JobFacts& facts) {
  if (facts.detached) return {Detached(facts)};
  std::vector<Problem> problems;
  ExplainSaves(facts, problems);
  ExplainWorld(facts, problems);
  ExplainLost(facts, problems);
  ExplainRescue(facts, problems);
  ExplainSpace(facts, problems);
  if (facts.view.logic.draining) {
    problems.push_back(Make(facts, Severity::kNote, "draining",
                            "Draining: no new saves start; those in flight are finished.", {},
                            {absl::StrCat("keepstep watch ", facts.job)}));
  }
  std::stable_sort(problems.begin(), problems.end(),
                   [](const Problem& a, const Problem& b) { return a.severity > b.severity; });
  return problems;
}

std::optional<Problem> ExplainStep(const JobFacts& facts, int64_t step) {
  for (const SaveInFlight& save : facts.view.saves) {
    if (save.logic.step == step) return IsStuck(save) ? ExplainStuck(facts, save) : InFlight(facts, save);
  }
  for (auto it = facts.view.outcomes.rbegin(); it != facts.view.outcomes.rend(); ++it) {
    if (it->step == step) return Ended(facts, *it);
  }
  return std::nullopt;
}

std::string HealthOf(const std::vector<Problem>& problems) {
  return problems.empty() ? "ok" : problems.front().sentence;
}

}  // namespace keepstep::daemon
