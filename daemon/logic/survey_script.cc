#include "daemon/logic/survey_script.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "absl/strings/match.h"
#include "daemon/logic/epoch_scripts.h"
#include "storage/record.h"

namespace keepstep::daemon {

using storage::StoreOp;
using storage::StoreResult;

namespace {

StoreOp List(std::string path) { return {.kind = StoreOp::Kind::kList, .path = std::move(path)}; }
StoreOp Read(std::string path) { return {.kind = StoreOp::Kind::kReadPublished, .path = std::move(path)}; }

}  // namespace

SurveyScript::Step SurveyScript::Next(const StoreResult* previous) {
  if (state_ == State::kStart) {
    state_ = State::kEpochs;
    return List(storage::kEpochsDir);
  }
  if (!previous->status.ok() && !absl::IsNotFound(previous->status))
    return Outcome{.status = previous->status};
  switch (state_) {
    case State::kStart:
      break;
    case State::kEpochs:
      for (const storage::BlobInfo& blob : previous->blobs) {
        if (const auto epoch = storage::ParseEpoch(blob.path.Leaf())) epochs_.push_back(*epoch);
      }
      std::sort(epochs_.begin(), epochs_.end());
      return ReadNextClaim();
    case State::kClaim:
      if (!previous->status.ok()) {
        epochs_.pop_back();
        return ReadNextClaim();
      }
      return ListSteps();
    case State::kSteps:
      for (const storage::BlobInfo& blob : previous->blobs) {
        if (const auto step = storage::ParseStep(blob.path.Leaf()); step && blob.is_directory)
          steps_.push_back(*step);
      }
      return ListNextStep();
    case State::kStep: {
      const int64_t step = steps_.back();
      steps_.pop_back();
      bool pins = false;
      for (const storage::BlobInfo& blob : previous->blobs) {
        pins = pins || blob.path.Leaf() == storage::kPinsDir;
        const auto id = storage::ParseAttempt(blob.path.Leaf());
        if (id && blob.is_directory && !spec_.live.contains(storage::AttemptName(*id)))
          attempts_.push_back({.id = *id, .step = step});
      }
      if (!pins) return ListNextStep();
      pins_[step];
      state_ = State::kPins;
      return List(storage::PinsPath(step));
    }
    case State::kPins:
      for (const storage::BlobInfo& blob : previous->blobs) {
        if (absl::StartsWith(blob.path.Leaf(), storage::kTemporaryPrefix)) continue;
        const auto step = storage::ParseStep(blob.path.Parent().Parent().Leaf());
        if (step) pins_[*step].emplace_back(blob.path.Leaf());
      }
      return ListNextStep();
    case State::kAttempt: {
      Attempt& attempt = attempts_[next_++];
      attempt.entries = previous->blobs.size();
      for (const storage::BlobInfo& blob : previous->blobs) {
        attempt.decided = attempt.decided || blob.path.Leaf() == storage::kDecisionName;
        attempt.deleting = attempt.deleting || blob.path.Leaf() == storage::kDeletingName;
        attempt.bytes += blob.size_bytes;
      }
      return ListNextAttempt();
    }
    case State::kDecision: {
      const Attempt& attempt = attempts_[next_++];
      absl::StatusOr<v1::Decision> decision = storage::DecodeDecision(previous->bytes);
      const bool ours = previous->status.ok() && decision.ok() && decision->step() == attempt.step;
      if (ours) {
        Classify(attempt, decision->kind() != v1::Decision::COMMIT ? Decided::kAbort
                          : decision->rescue()                     ? Decided::kRescue
                                                                   : Decided::kCommit);
      }
      return ReadNextDecision();
    }
    case State::kParent: {
      absl::StatusOr<LoadedStep> parent = DecodeLoadedStep(previous->bytes);
      if (previous->status.ok() && !parent.ok()) return Outcome{.status = parent.status()};
      if (previous->status.ok()) {
        if (!parent->found) return outcome_;  // the epoch began from nothing
        for (const StoredCommit& commit : outcome_.commits) {
          const bool named = commit.attempt == parent->attempt && commit.step == parent->step;
          if (!named || commit.deleting || commit.uncertain) continue;
          outcome_.last_good = commit.attempt;
          return outcome_;
        }
      }
      --asked_epoch_;
      return FindLatest();
    }
  }
  return outcome_;
}

SurveyScript::Step SurveyScript::ReadNextClaim() {
  if (!epochs_.empty() && epochs_.back() > spec_.epoch) {
    state_ = State::kClaim;
    return Read(storage::ClaimPath(epochs_.back()));
  }
  return ListSteps();
}

SurveyScript::Step SurveyScript::ListSteps() {
  outcome_.epoch = epochs_.empty() ? 0 : epochs_.back();
  state_ = State::kSteps;
  return List("");
}

SurveyScript::Step SurveyScript::ListNextStep() {
  if (!steps_.empty()) {
    state_ = State::kStep;
    return List(storage::StepName(steps_.back()));
  }
  std::sort(attempts_.begin(), attempts_.end(), [](const Attempt& a, const Attempt& b) {
    return std::tie(a.id.epoch, a.step, a.id) < std::tie(b.id.epoch, b.step, b.id);
  });
  return ListNextAttempt();
}

SurveyScript::Step SurveyScript::ListNextAttempt() {
  if (next_ < attempts_.size()) {
    state_ = State::kAttempt;
    return List(storage::AttemptDir(attempts_[next_].step, storage::AttemptName(attempts_[next_].id)));
  }
  next_ = 0;
  return ReadNextDecision();
}

SurveyScript::Step SurveyScript::ReadNextDecision() {
  for (; next_ < attempts_.size(); ++next_) {
    const Attempt& attempt = attempts_[next_];
    if (attempt.deleting) {
      Classify(attempt, Decided::kCommit);  // only a checkpoint is ever marked so
      continue;
    }
    // A deletion was cut off before its last step. (Whoever is about to write there makes the directory
    // again.)
    if (attempt.entries == 0)
      outcome_.litter.push_back({.step = attempt.step, .attempt = attempt.id, .empty = true});
    if (!attempt.decided) continue;
    const auto known = spec_.known.find(storage::AttemptName(attempt.id));
    if (known != spec_.known.end()) {
      Classify(attempt, known->second);
      continue;
    }
    state_ = State::kDecision;
    return Read(storage::DecisionPath(attempt.step, storage::AttemptName(attempt.id)));
  }
  asked_epoch_ = outcome_.epoch;
  return FindLatest();
}

void SurveyScript::Classify(const Attempt& attempt, Decided decided) {
  std::string name = storage::AttemptName(attempt.id);
  if (!attempt.deleting) outcome_.decisions[name] = decided;
  if (decided == Decided::kAbort) {
    if (attempt.entries > 1) outcome_.litter.push_back({.step = attempt.step, .attempt = attempt.id});
    return;
  }
  const auto pins = pins_.find(attempt.step);
  const bool uncertain = spec_.untrusted.contains(name);
  outcome_.commits.push_back({.epoch = attempt.id.epoch,
                              .step = attempt.step,
                              .attempt = std::move(name),
                              .bytes = attempt.bytes,
                              .pins = pins == pins_.end() ? std::vector<std::string>() : pins->second,
                              .uncertain = uncertain,
                              .deleting = attempt.deleting,
                              .rescue = decided == Decided::kRescue});
}

SurveyScript::Step SurveyScript::FindLatest() {
  while (asked_epoch_ > 0) {
    for (auto commit = outcome_.commits.rbegin(); commit != outcome_.commits.rend(); ++commit) {
      if (commit->epoch != asked_epoch_ || commit->deleting || commit->uncertain) continue;
      outcome_.last_good = commit->attempt;
      return outcome_;
    }
    state_ = State::kParent;
    return Read(storage::ParentPath(asked_epoch_));
  }
  return outcome_;
}

}  // namespace keepstep::daemon
