#include "daemon/logic/inherit_script.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "storage/record.h"

namespace keepstep::daemon {

using storage::AttemptId;
using storage::CommitMachine;
using storage::CommitOutcome;
using storage::StoreOp;
using storage::StoreResult;

std::variant<StoreOp, InheritScript::Outcome> InheritScript::Next(const StoreResult* previous) {
  if (state_ == State::kStart) {
    state_ = State::kSteps;
    return StoreOp{.kind = StoreOp::Kind::kList};
  }
  if (state_ == State::kSettling) {
    auto next = settle_->Next(previous);
    if (auto* op = std::get_if<StoreOp>(&next)) return std::move(*op);
    return OnSettled(std::get<CommitOutcome>(next));
  }
  if (state_ == State::kPublishing) {
    auto next = publish_->Next(previous);
    if (auto* op = std::get_if<StoreOp>(&next)) return std::move(*op);
    const PublishOnce::Outcome& published = std::get<PublishOnce::Outcome>(next);
    if (!published.status.ok()) return Fail(published.status);
    absl::StatusOr<LoadedStep> latest = DecodeLoadedStep(published.bytes);
    if (!latest.ok()) return Fail(latest.status());
    outcome_.latest = *std::move(latest);
    return outcome_;
  }
  if (!previous->status.ok() && previous->status.code() != absl::StatusCode::kNotFound)
    return Fail(previous->status);
  switch (state_) {
    case State::kSteps:
      for (const storage::BlobInfo& blob : previous->blobs) {
        if (auto step = storage::ParseStep(blob.path.Leaf()); step && blob.is_directory)
          steps_.push_back(*step);
      }
      return ListNextStep();
    case State::kStep:
      for (const storage::BlobInfo& blob : previous->blobs) {
        auto attempt = storage::ParseAttempt(blob.path.Leaf());
        if (attempt && blob.is_directory && attempt->epoch < spec_.epoch) {
          attempts_.push_back({.id = *attempt, .step = steps_.back()});
        }
      }
      steps_.pop_back();
      return ListNextStep();
    case State::kAttempt: {
      Attempt& attempt = attempts_[next_++];
      bool part = false;
      for (const storage::BlobInfo& blob : previous->blobs) {
        attempt.decided = attempt.decided || blob.path.Leaf() == storage::kDecisionName;
        attempt.deleting = attempt.deleting || blob.path.Leaf() == storage::kDeletingName;
        part = part || storage::ParsePartName(blob.path.Leaf()).has_value();
      }
      attempt.litter = !part && previous->blobs.size() > (attempt.decided ? 1 : 0);
      return ListNextAttempt();
    }
    case State::kDecision: return OnDecision(*previous);
    case State::kParent: return OnParent(*previous);
    case State::kParentDecision: {
      absl::StatusOr<v1::Decision> decision = storage::DecodeDecision(previous->bytes);
      const bool there = previous->status.ok() && decision.ok() && decision->kind() == v1::Decision::COMMIT;
      if (there) return Publish(parent_);
      --asked_epoch_;  // it was deleted since
      return TryNextCandidate();
    }
    case State::kStart:
    case State::kSettling:
    case State::kPublishing: break;
  }
  return outcome_;
}

InheritScript::Step InheritScript::ListNextStep() {
  if (!steps_.empty()) {
    state_ = State::kStep;
    return StoreOp{.kind = StoreOp::Kind::kList, .path = storage::StepName(steps_.back())};
  }
  // In the order in which they answer "latest".
  std::sort(attempts_.begin(), attempts_.end(), [](const Attempt& a, const Attempt& b) {
    return std::tie(b.id.epoch, b.step, b.id) < std::tie(a.id.epoch, a.step, a.id);
  });
  return ListNextAttempt();
}

InheritScript::Step InheritScript::ListNextAttempt() {
  if (next_ < attempts_.size()) {
    state_ = State::kAttempt;
    return StoreOp{.kind = StoreOp::Kind::kList,
                   .path = storage::AttemptDir(attempts_[next_].step, attempts_[next_].name())};
  }
  next_ = 0;
  return SettleNext();
}

InheritScript::Step InheritScript::SettleNext() {
  for (; next_ < attempts_.size(); ++next_) {
    const Attempt& attempt = attempts_[next_];
    const bool settled = attempt.decided && !attempt.litter && !spec_.everything;
    if (settled || attempt.deleting || spec_.excluded.contains(attempt.name())) continue;
    v1::Decision intent;
    intent.set_step(attempt.step);
    intent.set_attempt(attempt.name());
    intent.set_epoch(attempt.id.epoch);
    intent.set_time_unix_ms(spec_.unix_ms);
    intent.set_reason("LEFT_BEHIND");
    intent.set_message("The run that made this attempt ended before it was complete.");
    settle_.emplace(CommitMachine::Want::kSettle, std::move(intent), std::vector<std::string>{});
    state_ = State::kSettling;
    auto first = settle_->Next(nullptr);
    if (auto* op = std::get_if<StoreOp>(&first)) return std::move(*op);
    return OnSettled(std::get<CommitOutcome>(first));
  }
  next_ = 0;
  asked_epoch_ = spec_.epoch - 1;
  return TryNextCandidate();
}

InheritScript::Step InheritScript::OnSettled(const CommitOutcome& outcome) {
  Attempt& attempt = attempts_[next_++];
  const JournalEntry entry{.attempt = attempt.name(), .step = attempt.step, .epoch = attempt.id.epoch};
  switch (outcome.kind) {
    case CommitOutcome::Kind::kCommitted:
      attempt.decided = true;
      outcome_.committed.push_back(entry);
      break;
    case CommitOutcome::Kind::kAborted:
      attempt.decided = false;  // no candidate
      outcome_.aborted.push_back(entry);
      break;
    case CommitOutcome::Kind::kUncertain: spec_.excluded.insert(entry.attempt); break;
    case CommitOutcome::Kind::kUndecided: return Fail(outcome.status);
  }
  return SettleNext();
}

InheritScript::Step InheritScript::TryNextCandidate() {
  while (asked_epoch_ > 0) {
    while (next_ < attempts_.size() && attempts_[next_].id.epoch > asked_epoch_) ++next_;
    while (next_ < attempts_.size() && attempts_[next_].id.epoch == asked_epoch_) {
      const Attempt& attempt = attempts_[next_];
      if (attempt.decided && !attempt.deleting && !spec_.excluded.contains(attempt.name())) {
        state_ = State::kDecision;
        return StoreOp{.kind = StoreOp::Kind::kReadPublished,
                       .path = storage::DecisionPath(attempt.step, attempt.name())};
      }
      ++next_;
    }
    state_ = State::kParent;
    return StoreOp{.kind = StoreOp::Kind::kReadPublished, .path = storage::ParentPath(asked_epoch_)};
  }
  return Publish({});
}

InheritScript::Step InheritScript::OnDecision(const StoreResult& result) {
  const Attempt& attempt = attempts_[next_++];
  if (result.status.ok()) {
    absl::StatusOr<v1::Decision> decision = storage::DecodeDecision(result.bytes);
    if (!decision.ok()) return Fail(decision.status());  // it may have been the answer
    if (decision->kind() == v1::Decision::COMMIT) {
      return Publish({.found = true, .step = attempt.step, .attempt = attempt.name()});
    }
  }
  return TryNextCandidate();
}

InheritScript::Step InheritScript::OnParent(const StoreResult& result) {
  if (!result.status.ok()) {
    --asked_epoch_;
    return TryNextCandidate();
  }
  absl::StatusOr<LoadedStep> parent = DecodeLoadedStep(result.bytes);
  if (!parent.ok()) return Fail(parent.status());
  parent_ = *std::move(parent);
  if (!parent_.found) return Publish({});
  state_ = State::kParentDecision;
  return StoreOp{.kind = StoreOp::Kind::kReadPublished,
                 .path = storage::DecisionPath(parent_.step, parent_.attempt)};
}

InheritScript::Step InheritScript::Publish(LoadedStep latest) {
  publish_.emplace(storage::LatestPath(spec_.epoch), EncodeLoadedStep(latest));
  state_ = State::kPublishing;
  return std::get<StoreOp>(publish_->Next(nullptr));
}

}  // namespace keepstep::daemon
