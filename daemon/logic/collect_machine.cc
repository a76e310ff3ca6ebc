#include "daemon/logic/collect_machine.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/logic/failures.h"
#include "storage/attempt.h"

namespace keepstep::daemon {

using storage::DeletionScript;

namespace {

Failure TakenOver() {
  return MakeFailure(absl::StatusCode::kAborted, "STALE_EPOCH",
                     "A new run is taking the job over. What was to be deleted is looked at again after its "
                     "first checkpoint; or ask again.",
                     "collect");
}

Failure NotCoordinator(int64_t epoch) {
  return MakeFailure(
      absl::StatusCode::kFailedPrecondition, "NOT_COORDINATOR",
      absl::StrCat("Epoch ", epoch,
                   " of this job was claimed by another daemon, or not by a run of this one's, and "
                   "only the daemon that runs a job deletes. Collect there; or take the job over here "
                   "(--take-over): a run that is going on elsewhere would be ABORTED."),
      "collect");
}

}  // namespace

CollectMachine::CollectMachine(const Limits& limits, Outbox& outbox, World& world, EpochMachine& epoch,
                               Coordinator& coordinator, int64_t start_unix_ms)
    : limits_(limits),
      outbox_(outbox),
      world_(world),
      epoch_(epoch),
      coordinator_(coordinator),
      start_unix_ms_(start_unix_ms),
      backoff_(limits) {}

void CollectMachine::OnReady() {
  for (const JournalEntry& entry : std::exchange(left_, {})) {
    const auto id = storage::ParseAttempt(entry.attempt);
    if (!id || entry.epoch != world_.epoch) {
      outbox_.Catalog(EraseJournal{.attempt = entry.attempt}, life_, [](const absl::Status&) {});
      continue;
    }
    remembered_[static_cast<uint64_t>(id->counter)] = entry.attempt;
    coordinator_.Remember({.number = static_cast<uint64_t>(id->counter),
                           .step = entry.step,
                           .attempt = entry.attempt,
                           .state = SaveState::kCommitted});
  }
  wanted_ = true;
}

void CollectMachine::OnEpochChanged() {
  tidy_ = true;
  for (const auto& [number, attempt] : std::exchange(remembered_, {})) {
    outbox_.Catalog(EraseJournal{.attempt = attempt}, life_, [](const absl::Status&) {});
  }
}

void CollectMachine::OnRequested(const CollectRequested& request) {
  if (static_cast<int>(requests_.size()) >= limits_.max_collections_waiting) {
    Refuse(request,
           MakeFailure(absl::StatusCode::kResourceExhausted, "TOO_MANY_COLLECTIONS",
                       "Others wait for this job's collection already. Ask again later.", "collect"));
    return;
  }
  const std::optional<std::string> fault = request.policy ? PolicyFault(*request.policy) : std::nullopt;
  if (fault) {
    Refuse(request, MakeFailure(absl::StatusCode::kInvalidArgument, "BAD_RETENTION", *fault, "collect"));
    return;
  }
  requests_.push_back({request, outbox_.now()});
}

void CollectMachine::OnTick() {
  while (!requests_.empty() && outbox_.now() - requests_.front().since >= limits_.recover_ms) {
    Refuse(requests_.front().request, MakeFailure(absl::StatusCode::kUnavailable, "COLLECTION_WAITS",
                                                  "The job is being recovered or taken over, or an earlier "
                                                  "collection waits for storage. Try again.",
                                                  "collect"));
    requests_.pop_front();
  }
}

void CollectMachine::MakeRoom(std::function<void(bool)> then) {
  if (world_.retention.none() || !epoch_.MayCollect() || !world_.roster_known) {
    then(false);
    return;
  }
  waiting_for_room_.push_back(std::move(then));
  wanted_ = wanted_ || !run_ || run_->dry_run || run_->policy.none();
}

void CollectMachine::AfterEvent() {
  if (run_) return;
  if (!epoch_.MayCollect()) {
    for (const auto& then : std::exchange(waiting_for_room_, {}))
      then(false);  // a claim waits for those saves
    return;
  }
  if (!requests_.empty()) {
    const CollectRequested& request = requests_.front().request;
    if (world_.roster_known) {
      Run run{.ticket = request.ticket,
              .policy = request.policy.value_or(world_.retention),
              .dry_run = request.dry_run};
      requests_.pop_front();
      Start(std::move(run));
    } else if (request.take_over) {
      epoch_.TakeOver(request.nonce);  // and it waits
    } else {
      Refuse(request, NotCoordinator(world_.epoch));
      requests_.pop_front();
    }
    return;
  }
  const bool wanted = std::exchange(wanted_, false), tidy = std::exchange(tidy_, false);
  if (!world_.roster_known) return;
  if (wanted) {
    Start({.policy = world_.retention});
  } else if (tidy) {
    Start({});
  }
}

void CollectMachine::Start(Run run) {
  run_ = std::move(run);
  SurveyScript::Spec spec{.epoch = world_.epoch,
                          .live = coordinator_.LiveAttempts(),
                          .untrusted = coordinator_.Untrusted(),
                          .known = known_};
  for (const std::string& attempt : spec.untrusted) spec.live.erase(attempt);
  RunScript(outbox_, life_, std::make_shared<SurveyScript>(std::move(spec)),
            [this](SurveyScript::Outcome& survey) { OnSurveyed(std::move(survey)); });
}

void CollectMachine::OnSurveyed(SurveyScript::Outcome survey) {
  if (!survey.status.ok()) {
    Finish(IoFailure(survey.status, "collect"));
    return;
  }
  if (survey.epoch != world_.epoch) {
    Finish(NotCoordinator(survey.epoch));
    return;
  }
  known_ = std::move(survey.decisions);
  RetentionInput input{
      .policy = run_->policy, .commits = std::move(survey.commits), .last_good = survey.last_good};
  const EpochMachine::InUse in_use = epoch_.StillToLoad();
  input.in_use = in_use.attempts;
  for (const StoredCommit& commit : input.commits) {
    if (in_use.steps.contains(commit.step)) input.in_use.emplace(commit.attempt, EpochMachine::kBeingLoaded);
  }
  run_->plan = PlanRetention(input);
  run_->litter = std::move(survey.litter);
  if (run_->dry_run) {
    Finish({});
  } else {
    Next();
  }
}

void CollectMachine::Next() {
  Run& run = *run_;
  if (!epoch_.MayCollect()) {
    Finish(TakenOver());
    return;
  }
  if (!run.litter.empty()) {
    const SurveyScript::Litter litter = run.litter.back();
    run.litter.pop_back();
    auto script = std::make_shared<DeletionScript>(
        litter.empty ? DeletionScript::What::kCheckpoint : DeletionScript::What::kAborted, litter.step,
        litter.attempt, v1::Marker());
    RunScript(outbox_, life_, script, [this](const DeletionScript::Outcome& outcome) {
      if (!outcome.status.ok() && !absl::IsFailedPrecondition(outcome.status)) {
        Finish(IoFailure(outcome.status, "collect"));
        return;
      }
      if (outcome.status.ok()) run_->freed_bytes += outcome.freed_bytes;
      Next();
    });
    return;
  }
  while (run.next < run.plan.size() && (run.plan[run.next].keep || StillInUse(run.plan[run.next])))
    ++run.next;
  if (run.next == run.plan.size()) {
    Finish({});
    return;
  }
  Remember(run.plan[run.next], [this](const absl::Status& status) {
    if (status.ok()) {
      Reserve();
    } else {
      Finish(IoFailure(status, "collect"));
    }
  });
}

bool CollectMachine::StillInUse(RetentionDecision& decision) const {
  if (decision.begun) return false;
  const EpochMachine::InUse in_use = epoch_.StillToLoad();
  const auto attempt = in_use.attempts.find(decision.attempt);
  if (attempt == in_use.attempts.end() && !in_use.steps.contains(decision.step)) return false;
  decision.keep = true;
  decision.reason = attempt == in_use.attempts.end() ? EpochMachine::kBeingLoaded : attempt->second;
  return true;
}

// A rank that resumes after a restart is told what became of its newest saves. What storage no longer shows
// is remembered here.
void CollectMachine::Remember(const RetentionDecision& decision,
                              std::function<void(const absl::Status&)> then) {
  const auto number = static_cast<uint64_t>(storage::ParseAttempt(decision.attempt)->counter);
  const bool asked_for = remembered_.size() < limits_.verdict_history || number > remembered_.begin()->first;
  if (decision.epoch != world_.epoch || !asked_for || remembered_.contains(number)) {
    then(absl::OkStatus());
    return;
  }
  if (remembered_.size() >= limits_.verdict_history) {
    outbox_.Catalog(EraseJournal{.attempt = remembered_.begin()->second}, life_, [](const absl::Status&) {});
    remembered_.erase(remembered_.begin());
  }
  remembered_[number] = decision.attempt;
  const JournalEntry entry{
      .attempt = decision.attempt, .step = decision.step, .epoch = decision.epoch, .collected = true};
  outbox_.Catalog(PutJournal{.entry = entry}, life_, [this, number, then](const absl::Status& status) {
    if (!status.ok()) remembered_.erase(number);
    then(status);
  });
}

void CollectMachine::Reserve() {
  const RetentionDecision& decision = run_->plan[run_->next];
  outbox_.Catalog(ReserveAttempt{.attempt = decision.attempt, .step = decision.step}, life_,
                  [this](const absl::Status& status) {
                    if (status.ok()) {
                      Delete();
                      return;
                    }
                    RetentionDecision& decision = run_->plan[run_->next];
                    decision.keep = true;
                    decision.reason = EpochMachine::kBeingLoaded;
                    Next();
                  });
}

void CollectMachine::Delete() {
  const RetentionDecision& decision = run_->plan[run_->next];
  v1::Marker marker;
  marker.set_time_unix_ms(start_unix_ms_ + outbox_.now());
  marker.set_text(decision.reason);
  auto script = std::make_shared<DeletionScript>(DeletionScript::What::kCheckpoint, decision.step,
                                                 *storage::ParseAttempt(decision.attempt), marker);
  RunScript(outbox_, life_, script, [this](const DeletionScript::Outcome& outcome) { OnDeleted(outcome); });
}

void CollectMachine::OnDeleted(const DeletionScript::Outcome& outcome) {
  RetentionDecision& decision = run_->plan[run_->next];
  outbox_.Emit(ReleaseAttempt{.attempt = decision.attempt, .step = decision.step});
  if (absl::IsFailedPrecondition(outcome.status)) {
    decision.keep = true;
    decision.reason = outcome.pinned ? "pinned meanwhile" : std::string(outcome.status.message());
    Next();
    return;
  }
  if (!outcome.status.ok()) {
    Finish(IoFailure(outcome.status, "collect"));
    return;
  }
  known_.erase(decision.attempt);
  run_->freed_bytes += outcome.freed_bytes;
  ++run_->next;
  outbox_.Catalog(RecordGone{.attempt = decision.attempt,
                             .step = decision.step,
                             .why = decision.reason,
                             .bytes = outcome.freed_bytes},
                  life_, [this](const absl::Status&) { Next(); });  // an index: reindex mends it
}

void CollectMachine::Finish(Failure failure) {
  Run run = *std::exchange(run_, std::nullopt);
  const bool failed = failure.code != absl::StatusCode::kOk;
  if (run.ticket) {
    outbox_.Emit(AnswerCollect{.ticket = *run.ticket,
                               .policy = run.policy,
                               .decisions = std::move(run.plan),
                               .freed_bytes = run.freed_bytes,
                               .failure = failure});
  } else if (failed && failure.reason != "NOT_COORDINATOR" && failure.reason != "STALE_EPOCH") {
    TryLater(run.policy.none(), failure.reason == storage::kDiskFull);
  } else {
    backoff_.Reset();
  }
  if (run.dry_run || run.policy.none()) return;
  for (const auto& then : std::exchange(waiting_for_room_, {})) then(run.freed_bytes > 0);
}

void CollectMachine::TryLater(bool tidy, bool no_room) {
  outbox_.At(outbox_.now() + backoff_.Next(no_room), life_,
             [this, tidy] { (tidy ? tidy_ : wanted_) = true; });
}

void CollectMachine::Refuse(const CollectRequested& request, Failure failure) {
  outbox_.Emit(AnswerCollect{.ticket = request.ticket, .failure = std::move(failure)});
}

}  // namespace keepstep::daemon
