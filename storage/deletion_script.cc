// The order of delete.h, step by step; every step may find that an earlier call already took it.

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "reshard/check.h"
#include "storage/delete.h"
#include "storage/record.h"

namespace keepstep::storage {

using Kind = StoreOp::Kind;

namespace {

bool HasPins(const StoreResult& result) {
  for (const BlobInfo& pin : result.blobs) {
    if (!absl::StartsWith(pin.path.Leaf(), kTemporaryPrefix)) return true;
  }
  return false;
}

}  // namespace

DeletionScript::DeletionScript(What what, int64_t step, const AttemptId& attempt, const v1::Marker& why)
    : what_(what),
      step_(step),
      name_(AttemptName(attempt)),
      directory_(AttemptDir(step, name_)),
      marker_(EncodeMarker(why)) {
  KEEPSTEP_CHECK(step >= 0 && step <= kMaxStep, "a deletion names a step that makes a path");
}

DeletionScript::Step DeletionScript::Next(const StoreResult* previous) {
  if (state_ == State::kStart) return Do(State::kListed, Kind::kList, directory_);
  const StoreResult& result = *previous;
  switch (state_) {
    case State::kStart: break;
    case State::kListed: return OnListed(result);
    case State::kDecision: return OnDecision(result);
    case State::kPinsBefore:
      if (!result.status.ok() && !absl::IsNotFound(result.status)) return Outcome{.status = result.status};
      if (HasPins(result)) return Pinned();
      return Do(State::kMarked, Kind::kPublish, DeletingPath(step_, name_), marker_);
    case State::kMarked: return OnMarked(result);
    case State::kPins: return OnPins(result);
    case State::kWithdrawn:
      if (!result.status.ok()) return Outcome{.status = result.status};
      return Do(State::kWithdrawnSynced, Kind::kSyncTree, directory_);
    case State::kWithdrawnSynced:
      if (!result.status.ok())
        return Outcome{.status = result.status};  // a power loss would hide the checkpoint
      return Pinned();
    case State::kDeleting:
      if (!result.status.ok()) return Outcome{.status = result.status};
      return DeleteNext();
    case State::kSynced:
      if (!result.status.ok()) return Outcome{.status = result.status};
      return TidyNext();
    case State::kTidying:
      // Other attempts, their records, and pins keep the directories that they lie in.
      if (!result.status.ok() && !absl::IsFailedPrecondition(result.status))
        return Outcome{.status = result.status};
      return TidyNext();
  }
  return outcome_;
}

DeletionScript::Step DeletionScript::OnListed(const StoreResult& result) {
  if (!result.status.ok()) return Outcome{.status = result.status};
  bool begun = false, whole = false;
  std::deque<StoreOp> parts, others;
  for (const BlobInfo& info : result.blobs) {
    const absl::string_view leaf = info.path.Leaf();
    begun = begun || leaf == kDeletingName;
    whole = whole || leaf == PartName(0);
    if (what_ == What::kCheckpoint || leaf != kDecisionName) outcome_.freed_bytes += info.size_bytes;
    if (leaf == kDecisionName || leaf == kDeletingName) continue;
    StoreOp op;
    op.kind = info.is_directory ? Kind::kDeleteTree : Kind::kDelete;
    op.path = info.path.text();
    if (leaf == PartName(0)) {
      contents_.push_back(std::move(op));
    } else {
      (ParsePartName(leaf).has_value() ? parts : others).push_back(std::move(op));
    }
  }
  // Part 0 first, durably: while it is there nothing is missing. Then parts, so that nothing that is half
  // gone still looks whole.
  if (whole) contents_.push_back({.kind = Kind::kSyncTree, .path = directory_});
  no_way_back_ = begun && !whole;
  for (StoreOp& op : parts) contents_.push_back(std::move(op));
  for (StoreOp& op : others) contents_.push_back(std::move(op));
  if (what_ == What::kAborted) return Do(State::kDecision, Kind::kReadPublished, DecisionPath(step_, name_));
  tidy_ = {DeletingPath(step_, name_), directory_, PinsPath(step_), StepName(step_)};
  if (result.blobs.empty()) {
    tidy_.pop_front();
    return TidyNext();
  }
  if (begun) return Do(State::kMarked, Kind::kPublish, DeletingPath(step_, name_), marker_);
  return Do(State::kDecision, Kind::kReadPublished, DecisionPath(step_, name_));
}

DeletionScript::Step DeletionScript::OnDecision(const StoreResult& result) {
  absl::StatusOr<v1::Decision> decision =
      result.status.ok() ? DecodeDecision(result.bytes) : absl::StatusOr<v1::Decision>(result.status);
  if (what_ == What::kAborted) {
    const bool aborted = decision.ok() && decision->kind() == v1::Decision::ABORT;
    if (aborted) return DeleteNext();
    if (decision.ok() || absl::IsNotFound(decision.status())) return Refuse(" was not aborted");
    return Outcome{.status = decision.status()};
  }
  if (absl::IsNotFound(decision.status())) return Refuse(" is undecided: abort it before its deletion");
  if (decision.ok() && decision->kind() != v1::Decision::COMMIT)
    return Refuse(" was aborted: its record stays");
  // Damage is what one wants to be rid of.
  if (!decision.ok() && !absl::IsDataLoss(decision.status())) return Outcome{.status = decision.status()};
  return Do(State::kPinsBefore, Kind::kList, PinsPath(step_));
}

// Published, or found published: which of the two does not matter.
DeletionScript::Step DeletionScript::OnMarked(const StoreResult& result) {
  if (!result.status.ok() && !absl::IsAlreadyExists(result.status)) return Outcome{.status = result.status};
  if (no_way_back_) return DeleteContents();
  return Do(State::kPins, Kind::kList, PinsPath(step_));
}

DeletionScript::Step DeletionScript::OnPins(const StoreResult& result) {
  if (!result.status.ok() && !absl::IsNotFound(result.status)) return Outcome{.status = result.status};
  if (HasPins(result)) return Do(State::kWithdrawn, Kind::kDelete, DeletingPath(step_, name_));
  return DeleteContents();
}

DeletionScript::Step DeletionScript::DeleteContents() {
  StoreOp decision;
  decision.kind = Kind::kDelete;
  decision.path = DecisionPath(step_, name_);
  contents_.push_back(std::move(decision));
  return DeleteNext();
}

// DELETING goes after a SyncTree: a COMMIT without parts would look like damage.
DeletionScript::Step DeletionScript::DeleteNext() {
  if (contents_.empty()) return Do(State::kSynced, Kind::kSyncTree, directory_);
  StoreOp op = std::move(contents_.front());
  contents_.pop_front();
  return Do(State::kDeleting, op.kind, std::move(op.path));
}

DeletionScript::Step DeletionScript::TidyNext() {
  if (tidy_.empty()) return outcome_;
  std::string path = std::move(tidy_.front());
  tidy_.pop_front();
  return Do(State::kTidying, Kind::kDelete, std::move(path));
}

DeletionScript::Step DeletionScript::Do(State next, Kind kind, std::string path, std::string bytes) {
  state_ = next;
  StoreOp op;
  op.kind = kind;
  op.path = std::move(path);
  op.bytes = std::move(bytes);
  return op;
}

DeletionScript::Step DeletionScript::Pinned() const {
  return Outcome{.status = absl::FailedPreconditionError(
                     absl::StrCat("step ", step_, " is pinned: unpin it before its deletion")),
                 .pinned = true};
}

DeletionScript::Step DeletionScript::Refuse(const char* why) {
  return Outcome{.status = absl::FailedPreconditionError(absl::StrCat(directory_, why))};
}

}  // namespace keepstep::storage
