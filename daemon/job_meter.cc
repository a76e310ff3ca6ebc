#include "daemon/job_meter.h"

#include <algorithm>
#include <variant>

#include "absl/strings/str_cat.h"

namespace keepstep::daemon {
namespace {

using Time = JobMeter::Time;

bool Known(Time time) { return time != Time{}; }

void Observe(prometheus::Histogram& histogram, Time from, Time to) {
  if (!Known(from) || !Known(to)) return;
  histogram.Observe(std::max(0.0, std::chrono::duration<double>(to - from).count()));
}

const char* OutcomeName(SaveState state) {
  return state == SaveState::kSkipped      ? "skipped"
         : state == SaveState::kSuperseded ? "superseded"
         : state == SaveState::kCancelled  ? "cancelled"
                                           : "failed";
}

template <typename Set>
void Remember(Set& set, const std::string& one, size_t most) {
  set.insert(one);
  if (set.size() > most) set.erase(set.begin());
}

}  // namespace

JobMeter::~JobMeter() {
  if (metrics_ != nullptr) metrics_->saves_in_flight->Decrement(static_cast<double>(attempts_.size()));
}

JobMeter::Attempt* JobMeter::Find(const std::string& attempt) {
  auto found = attempts_.find(attempt);
  return found == attempts_.end() ? nullptr : &found->second;
}

void JobMeter::Saw(const Event& event, Time now) {
  if (metrics_ == nullptr) return;
  if (const auto* call = std::get_if<SaveRequested>(&event)) {
    calls_.try_emplace({call->number, call->session}, now);
    if (calls_.size() > kMaxCalls) calls_.erase(calls_.begin());
  } else if (const auto* done = std::get_if<CatalogDone>(&event)) {
    for (auto& [name, attempt] : attempts_) {
      if (attempt.journal_op == done->op && !Known(attempt.journal_end)) attempt.journal_end = now;
    }
  } else if (const auto* plan = std::get_if<PlanMade>(&event)) {
    if (Attempt* attempt = Find(plan->attempt)) attempt->plan_end = now;
  } else if (const auto* copied = std::get_if<RankCopied>(&event)) {
    Attempt* attempt = Find(copied->attempt);
    if (attempt == nullptr) return;
    attempt->last_copy = now;
    const auto call = attempt->calls.find(copied->rank);
    if (call != attempt->calls.end()) Observe(*metrics_->save_gate, call->second, now);
  } else if (const auto* flushed = std::get_if<RankFlushed>(&event)) {
    if (Attempt* attempt = Find(flushed->attempt)) attempt->last_flush = now;
  } else if (const auto* verdict = std::get_if<VerdictSeen>(&event)) {
    for (auto& [name, attempt] : attempts_) {
      if (attempt.number == verdict->number) attempt.last_verdict = now;
    }
  } else if (const auto* part = std::get_if<PartWritten>(&event)) {
    if (Attempt* attempt = Find(part->attempt)) attempt->part_end = now;
  } else if (const auto* store = std::get_if<StoreDone>(&event)) {
    Take(*store);
  }
}

void JobMeter::Saw(const Action& action, Time now) {
  if (metrics_ == nullptr) return;
  if (const auto* journal = std::get_if<PutJournal>(&action)) {
    const auto [attempt, added] = attempts_.try_emplace(journal->entry.attempt);
    attempt->second.journal_op = journal->op;
    attempt->second.journal_begin = now;
    if (added) metrics_->saves_in_flight->Increment();
  } else if (const auto* plan = std::get_if<MakePlan>(&action)) {
    if (Attempt* attempt = Find(plan->attempt)) attempt->plan_begin = now;
  } else if (const auto* start = std::get_if<StartRank>(&action)) {
    Take(*start, now);
  } else if (const auto* part = std::get_if<WritePart>(&action)) {
    if (Attempt* attempt = Find(part->attempt)) attempt->part_begin = now;
  } else if (const auto* erase = std::get_if<EraseJournal>(&action)) {
    Attempt* attempt = Find(erase->attempt);
    if (attempt == nullptr) return;
    Observe(metrics_->save_phase(SavePhase::kCatalog), attempt->published, now);
    ForgetCalls(attempt->number);
    attempts_.erase(erase->attempt);
    metrics_->saves_in_flight->Decrement();
  } else if (const auto* store = std::get_if<DoStore>(&action)) {
    Take(*store);
  }
}

void JobMeter::Take(const StartRank& action, Time now) {
  Attempt* attempt = Find(action.attempt);
  if (attempt == nullptr) return;
  attempt->number = action.number;
  if (!Known(attempt->first_start)) attempt->first_start = now;
  const auto call = calls_.find({action.number, action.session});
  if (call == calls_.end()) return;
  attempt->calls[action.rank] = call->second;
  if (!Known(attempt->first_call) || call->second < attempt->first_call) attempt->first_call = call->second;
}

void JobMeter::Take(const DoStore& action) {
  const std::string key = absl::StrCat(static_cast<int>(action.what.kind), " ", action.what.path);
  if (failed_.erase(key) > 0) metrics_->store_retries->Increment();
  operations_[action.op] = key;
}

void JobMeter::Take(const StoreDone& event) {
  const auto found = operations_.find(event.op);
  if (found == operations_.end()) return;
  const absl::Status& status = event.result.status;
  if (!status.ok() && !absl::IsNotFound(status) && !absl::IsAlreadyExists(status))
    Remember(failed_, found->second, kMaxRemembered);
  operations_.erase(found);
}

void JobMeter::Over(const Verdict& verdict) {
  if (metrics_ == nullptr || verdict.state == SaveState::kCommitted) return;
  metrics_->SaveOver(OutcomeName(verdict.state), verdict.failure.reason);
  if (verdict.attempt.empty()) ForgetCalls(verdict.number);
}

void JobMeter::Committed(const std::string& attempt, int64_t bytes, Time now) {
  if (metrics_ == nullptr || committed_.contains(attempt)) return;
  Remember(committed_, attempt, kMaxRemembered);
  Attempt* ours = Find(attempt);
  metrics_->SaveOver("committed", ours == nullptr ? "recovered" : "");
  if (ours == nullptr) return;
  ours->published = now;
  CountStages(*ours, bytes);
}

void JobMeter::CountStages(const Attempt& attempt, int64_t bytes) {
  const auto phase = [&](SavePhase which, Time from, Time to) {
    Observe(metrics_->save_phase(which), from, to);
  };
  phase(SavePhase::kJournal, attempt.journal_begin, attempt.journal_end);
  phase(SavePhase::kPlan, attempt.plan_begin, attempt.plan_end);
  phase(SavePhase::kCopy, attempt.first_start, attempt.last_copy);
  phase(SavePhase::kSeal, attempt.last_copy, attempt.last_verdict);
  phase(SavePhase::kPersist, attempt.last_copy, attempt.last_flush);
  phase(SavePhase::kPart, attempt.part_begin, attempt.part_end);
  phase(SavePhase::kCommit, attempt.part_end, attempt.published);
  Observe(*metrics_->save_snapshot, attempt.first_call, attempt.last_copy);
  Observe(*metrics_->save_persist, attempt.first_call, attempt.last_flush);
  Observe(*metrics_->save_commit, attempt.first_call, attempt.published);
  metrics_->saved_bytes->Increment(static_cast<double>(bytes));
  const double seconds = std::chrono::duration<double>(attempt.published - attempt.first_call).count();
  if (Known(attempt.first_call) && seconds > 0 && bytes > 0)
    metrics_->save_bandwidth->Observe(static_cast<double>(bytes) / seconds);
}

void JobMeter::ForgetCalls(uint64_t number) {
  calls_.erase(calls_.lower_bound({number, 0}), calls_.lower_bound({number + 1, 0}));
}

}  // namespace keepstep::daemon
