#include "daemon/logic/epoch_scripts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "storage/record.h"

namespace keepstep::daemon {

using storage::AttemptId;
using storage::StoreOp;
using storage::StoreResult;

namespace {

StoreOp List(std::string path) { return {.kind = StoreOp::Kind::kList, .path = std::move(path)}; }
StoreOp ReadPublished(std::string path) {
  return {.kind = StoreOp::Kind::kReadPublished, .path = std::move(path)};
}

// Directory names beneath a listed directory that `parse` accepts, as their values, ascending.
template <class Parse>
auto Parsed(const StoreResult& listing, Parse parse) {
  std::vector<typename decltype(parse(absl::string_view()))::value_type> values;
  for (const storage::BlobInfo& blob : listing.blobs) {
    if (!blob.is_directory) continue;
    if (auto value = parse(blob.path.Leaf())) values.push_back(*value);
  }
  std::sort(values.begin(), values.end());
  return values;
}

// What the ranks were, or would have been, told of an attempt with this decision.
SaveState StateOf(const v1::Decision& decision) {
  if (decision.kind() == v1::Decision::COMMIT) return SaveState::kCommitted;
  if (decision.reason() == "CANCELLED") return SaveState::kCancelled;
  return decision.reason() == "SUPERSEDED" ? SaveState::kSuperseded : SaveState::kFailed;
}

}  // namespace

std::string EncodeLoadedStep(const LoadedStep& step) {
  v1::EpochStep record;
  record.set_none(!step.found);
  record.set_step(step.step);
  record.set_attempt(step.attempt);
  return storage::EncodeEpochStep(std::move(record));
}

absl::StatusOr<LoadedStep> DecodeLoadedStep(const std::string& bytes) {
  absl::StatusOr<v1::EpochStep> record = storage::DecodeEpochStep(bytes);
  if (!record.ok()) return record.status();
  return LoadedStep{.found = !record->none(), .step = record->step(), .attempt = record->attempt()};
}

std::variant<StoreOp, PublishOnce::Outcome> PublishOnce::Next(const StoreResult* previous) {
  if (previous != nullptr && !reading_) {
    publish_status_ = previous->status;
    if (publish_status_.ok()) return Outcome{.bytes = bytes_};
    flush_failed_ = flush_failed_ || publish_status_.code() == absl::StatusCode::kAborted ||
                    publish_status_.code() == absl::StatusCode::kResourceExhausted;
    reading_ = true;
    return ReadPublished(path_);
  }
  if (previous != nullptr) {
    if (previous->status.ok()) return Outcome{.bytes = previous->bytes, .uncertain = flush_failed_};
    if (previous->status.code() != absl::StatusCode::kNotFound) return Outcome{.status = previous->status};
    reading_ = false;
  }
  if (tries_++ == kMaxTries) return Outcome{.status = publish_status_};
  return StoreOp{.kind = StoreOp::Kind::kPublish, .path = path_, .bytes = bytes_};
}

ScanScript::Step ScanScript::Fail(absl::Status status) { return Outcome{.status = std::move(status)}; }

ScanScript::Step ScanScript::Next(const StoreResult* previous) {
  if (state_ == State::kStart) {
    state_ = State::kEpochs;
    return List(storage::kEpochsDir);
  }
  const bool absent = previous->status.code() == absl::StatusCode::kNotFound;
  if (!previous->status.ok() && !absent) return Fail(previous->status);
  switch (state_) {
    case State::kStart:
    case State::kEpochs: epochs_ = Parsed(*previous, storage::ParseEpoch); return ReadClaim();
    case State::kClaim: {
      if (absent) return ReadClaim();
      absl::StatusOr<v1::Claim> claim = storage::DecodeClaim(previous->bytes);
      // A damaged claim still takes its epoch; without its world size nobody can resume in it.
      if (claim.ok()) outcome_.world_size = claim->world_size();
      state_ = State::kLatest;
      return ReadPublished(storage::LatestPath(outcome_.epoch));
    }
    case State::kLatest: {
      absl::StatusOr<LoadedStep> latest = DecodeLoadedStep(previous->bytes);
      if (!absent && latest.ok()) outcome_.latest = *std::move(latest);
      state_ = State::kSteps;
      return List("");
    }
    case State::kSteps: steps_ = Parsed(*previous, storage::ParseStep); return ListNextStep();
    case State::kStep:
      for (const AttemptId& attempt : Parsed(*previous, storage::ParseAttempt)) {
        if (attempt.epoch == outcome_.epoch) attempts_.push_back(storage::AttemptName(attempt));
      }
      return ReadNextDecision();
    case State::kDecision: {
      absl::StatusOr<v1::Decision> decision = storage::DecodeDecision(previous->bytes);
      if (!absent && decision.ok()) {
        Verdict verdict{.step = step_, .attempt = attempts_.back(), .state = StateOf(*decision)};
        verdict.number = static_cast<uint64_t>(storage::ParseAttempt(attempts_.back())->counter);
        if (verdict.state != SaveState::kCommitted) {
          verdict.failure = {.code = absl::StatusCode::kAborted,
                             .reason = decision->reason(),
                             .message = decision->message(),
                             .stage = "recover"};
        }
        outcome_.decided.push_back(std::move(verdict));
      }
      attempts_.pop_back();
      return ReadNextDecision();
    }
  }
  return outcome_;
}

ScanScript::Step ScanScript::ReadClaim() {
  if (epochs_.empty()) return Outcome{};
  outcome_.epoch = epochs_.back();
  epochs_.pop_back();
  state_ = State::kClaim;
  return ReadPublished(storage::ClaimPath(outcome_.epoch));
}

ScanScript::Step ScanScript::ListNextStep() {
  if (steps_.empty()) return outcome_;
  step_ = steps_.back();
  steps_.pop_back();
  state_ = State::kStep;
  return List(storage::StepName(step_));
}

ScanScript::Step ScanScript::ReadNextDecision() {
  if (attempts_.empty()) return ListNextStep();
  state_ = State::kDecision;
  return ReadPublished(storage::DecisionPath(step_, attempts_.back()));
}

std::variant<StoreOp, ClaimScript::Outcome> ClaimScript::Next(const StoreResult* previous) {
  if (previous == nullptr) return List(storage::kEpochsDir);
  if (!listed_) {
    if (!previous->status.ok()) return Outcome{.status = previous->status};
    listed_ = true;
    return TryNextEpoch();
  }
  auto next = publish_->Next(previous);
  if (auto* op = std::get_if<StoreOp>(&next)) return std::move(*op);
  const PublishOnce::Outcome& outcome = std::get<PublishOnce::Outcome>(next);
  if (!outcome.status.ok()) return Outcome{.status = outcome.status};
  absl::StatusOr<v1::Claim> there = storage::DecodeClaim(outcome.bytes);
  if (!outcome.uncertain && there.ok() && there->nonce() == claim_.nonce()) return Outcome{.epoch = epoch_};
  return TryNextEpoch();
}

std::variant<StoreOp, ClaimScript::Outcome> ClaimScript::TryNextEpoch() {
  if (tried_++ == kMaxEpochsTried) {
    return Outcome{
        .status = absl::UnavailableError("other runs keep claiming this job; stop them, then try again")};
  }
  claim_.set_epoch(++epoch_);
  publish_.emplace(storage::ClaimPath(epoch_), storage::EncodeClaim(claim_));
  return std::get<StoreOp>(publish_->Next(nullptr));
}

std::variant<StoreOp, FindStepScript::Outcome> FindStepScript::Next(const StoreResult* previous) {
  if (state_ == State::kStart) {
    state_ = State::kStep;
    return List(storage::StepName(step_));
  }
  const bool absent = previous->status.code() == absl::StatusCode::kNotFound;
  if (!previous->status.ok() && !absent) return Outcome{.status = previous->status};
  switch (state_) {
    case State::kStart:
    case State::kStep:
      for (const AttemptId& attempt : Parsed(*previous, storage::ParseAttempt)) {
        if (attempt.epoch < before_epoch_) attempts_.push_back(attempt);
      }
      return TryNextAttempt();
    case State::kAttempt: {
      const bool deleting = std::any_of(previous->blobs.begin(), previous->blobs.end(), [](const auto& blob) {
        return blob.path.Leaf() == storage::kDeletingName;
      });
      if (!deleting) {
        state_ = State::kDecision;
        return ReadPublished(storage::DecisionPath(step_, storage::AttemptName(attempts_.back())));
      }
      attempts_.pop_back();
      return TryNextAttempt();
    }
    case State::kDecision: {
      if (!absent) {
        absl::StatusOr<v1::Decision> decision = storage::DecodeDecision(previous->bytes);
        if (!decision.ok()) return Outcome{.status = decision.status()};
        if (decision->kind() == v1::Decision::COMMIT) {
          return Outcome{.found = {.found = true, .step = step_, .attempt = decision->attempt()}};
        }
      }
      attempts_.pop_back();
      return TryNextAttempt();
    }
  }
  return Outcome{};
}

std::variant<StoreOp, FindStepScript::Outcome> FindStepScript::TryNextAttempt() {
  if (attempts_.empty()) {
    return Outcome{.status =
                       absl::NotFoundError(absl::StrCat("step ", step_, " has no committed checkpoint"))};
  }
  state_ = State::kAttempt;
  return List(storage::AttemptDir(step_, storage::AttemptName(attempts_.back())));
}

}  // namespace keepstep::daemon
