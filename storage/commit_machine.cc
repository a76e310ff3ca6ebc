// The machine of commit.h. What each answer of the store may mean:
//
//   OK               done, durable.
//   ALREADY_EXISTS   somebody's decision is in the slot: read it.
//   NOT_FOUND        nothing there: certain, because stores list and read what was published.
//   transient        unknown (a lost reply, an outage): look, then try again, kMaxTries in all.
//   anything else    a write or flush failed. What a flush failed to keep is never believed again: if after
//                    it a decision turns up that may be the one we tried to publish, it is kUncertain.

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "reshard/check.h"
#include "storage/attempt.h"
#include "storage/commit.h"
#include "storage/digest.h"
#include "storage/record.h"

namespace keepstep::storage {
namespace {

using OpKind = StoreOp::Kind;

StoreOp MakeOp(OpKind kind, std::string path, std::string bytes = {}) {
  StoreOp op;
  op.kind = kind;
  op.path = std::move(path);
  op.bytes = std::move(bytes);
  return op;
}

bool IsTransient(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kInternal: return true;
    default: return false;
  }
}

// Every blob of the part is in the attempt's directory in full. A blob that lost its tail would be found by its
// digests, but only when someone loads it.
absl::Status CheckBlobs(const PartSummary& part, const std::vector<BlobInfo>& listed) {
  absl::flat_hash_map<std::string, int64_t> sizes;
  for (const BlobInfo& info : listed) {
    if (!info.is_directory) sizes[std::string(info.path.Leaf())] = info.size_bytes;
  }
  for (const auto& [name, size_bytes] : part.blobs) {
    const auto found = sizes.find(name);
    if (found == sizes.end()) return absl::DataLossError(absl::StrCat(name, " is missing"));
    if (found->second != size_bytes) {
      return absl::DataLossError(
          absl::StrCat(name, " has ", found->second, " bytes, its part says ", size_bytes));
    }
  }
  return absl::OkStatus();
}

}  // namespace

CommitMachine::CommitMachine(Want want, v1::Decision intent, std::vector<std::string> part_names,
                             std::vector<PartSummary> written)
    : want_(want),
      abort_(std::move(intent)),
      part_names_(std::move(part_names)),
      written_(std::move(written)) {
  KEEPSTEP_CHECK(ParseAttempt(abort_.attempt()).has_value(), "an attempt has a well-formed name");
  KEEPSTEP_CHECK(want_ != Want::kCommit || !part_names_.empty(), "a commit names its parts");
  dir_ = AttemptDir(abort_.step(), abort_.attempt());
  abort_.set_kind(v1::Decision::ABORT);
  abort_.clear_parts();
}

CommitMachine::Step CommitMachine::Next(const StoreResult* previous) {
  if (state_ == State::kStart) {
    KEEPSTEP_CHECK(previous == nullptr, "the first call has no result");
    switch (want_) {
      case Want::kCommit: return Do(State::kSynced, MakeOp(OpKind::kSyncTree, dir_));
      case Want::kAbort: return PublishAbort(absl::OkStatus());
      case Want::kSettle: return ReadSlot(State::kSlotRead);
    }
  }
  KEEPSTEP_CHECK(previous != nullptr, "an operation was out");
  switch (state_) {
    case State::kStart: break;
    case State::kSlotRead: return OnSlotRead(*previous);
    case State::kSynced: return OnSynced(*previous);
    case State::kListed: return OnListed(*previous);
    case State::kPartRead: return OnPartRead(*previous);
    case State::kPublished: return OnPublished(*previous);
    case State::kReread: return OnReread(*previous);
    case State::kReclaimList: return OnReclaimList(*previous);
    case State::kReclaimed: return OnReclaimed(*previous);
  }
  return StoreFailed(absl::InternalError("unreachable"));
}

// ---- gathering the parts
// -------------------------------------------------------------------------------------------

CommitMachine::Step CommitMachine::OnSlotRead(const StoreResult& result) {
  if (result.status.ok()) return Found(result);
  if (!absl::IsNotFound(result.status)) {
    return TryAgain(result.status) ? Step(last_) : StoreFailed(result.status);
  }
  return Do(State::kSynced, MakeOp(OpKind::kSyncTree, dir_));
}

CommitMachine::Step CommitMachine::OnSynced(const StoreResult& result) {
  // A directory that was never made has nothing to commit; the listing says so.
  const bool never_made = want_ == Want::kSettle && absl::IsNotFound(result.status);
  if (!result.status.ok() && !never_made) return StoreFailed(result.status);
  return Do(State::kListed, MakeOp(OpKind::kList, dir_));
}

CommitMachine::Step CommitMachine::OnListed(const StoreResult& result) {
  if (!result.status.ok()) return TryAgain(result.status) ? Step(last_) : StoreFailed(result.status);
  listed_ = result.blobs;
  if (want_ == Want::kSettle) part_names_ = {PartName(0)};
  return ReadNextPart();
}

CommitMachine::Step CommitMachine::ReadNextPart() {
  return Do(State::kPartRead,
            MakeOp(OpKind::kReadPublished, absl::StrCat(dir_, "/", part_names_[next_part_])));
}

CommitMachine::Step CommitMachine::OnPartRead(const StoreResult& result) {
  const std::string& name = part_names_[next_part_];
  if (absl::IsNotFound(result.status))
    return PartsBad(absl::DataLossError(absl::StrCat(name, " is missing")));
  if (!result.status.ok()) return TryAgain(result.status) ? Step(last_) : StoreFailed(result.status);
  absl::StatusOr<PartSummary> part = Judge(result.bytes);
  if (absl::IsFailedPrecondition(part.status()))
    return StoreFailed(part.status());  // later software can settle it
  if (!part.ok()) return PartsBad(part.status());
  if (next_part_ == 0) {
    commit_ = part->intent;
    commit_.set_kind(v1::Decision::COMMIT);
    commit_.clear_parts();
    if (commit_.attempt() != abort_.attempt() || commit_.step() != abort_.step()) {
      return PartsBad(absl::DataLossError(absl::StrCat(name, " intends another checkpoint")));
    }
    if (want_ == Want::kSettle) {
      part_names_.clear();
      for (uint32_t i = 0; i < part->count; ++i) part_names_.push_back(PartName(i));
    }
  }
  if (part->attempt != abort_.attempt() || part->index != next_part_ || part->count != part_names_.size()) {
    return PartsBad(absl::DataLossError(absl::StrCat(part_names_[next_part_], " belongs elsewhere")));
  }
  absl::Status blobs = CheckBlobs(*part, listed_);
  if (!blobs.ok()) return PartsBad(std::move(blobs));
  v1::PartRef* ref = commit_.add_parts();
  ref->set_name(part_names_[next_part_]);
  ref->set_size_bytes(part->size_bytes);
  ref->set_digest(part->digest);
  if (++next_part_ < part_names_.size()) return ReadNextPart();
  return PublishCommit();
}

// A part of a hundred thousand tensors takes as long to decode and judge as the small ones do to write.
absl::StatusOr<PartSummary> CommitMachine::Judge(absl::string_view bytes) const {
  if (!written_.empty()) {
    const std::string digest = DigestOf(bytes).ToBytes();
    for (const PartSummary& part : written_) {
      if (part.digest == digest) return part;
    }
  }
  absl::StatusOr<v1::Part> part = DecodePart(bytes);
  if (!part.ok()) return part.status();
  return SummaryOf(*part, bytes);
}

CommitMachine::Step CommitMachine::PartsBad(absl::Status status) {
  if (want_ == Want::kSettle) return PublishAbort(std::move(status));
  return Done(CommitOutcome::Kind::kUndecided, std::move(status), "PART_INVALID");
}

// ---- the slot
// ------------------------------------------------------------------------------------------------------

CommitMachine::Step CommitMachine::PublishCommit() {
  publishing_commit_ = true;
  return Publish();
}

CommitMachine::Step CommitMachine::PublishAbort(absl::Status why) {
  publishing_commit_ = false;
  if (!why.ok() && abort_.message().empty()) abort_.set_message(std::string(why.message()));
  if (abort_.reason().empty()) abort_.set_reason("INCOMPLETE");
  return Publish();
}

CommitMachine::Step CommitMachine::Publish() {
  ++publishes_;
  return Do(State::kPublished, MakeOp(OpKind::kPublish, DecisionPath(abort_.step(), abort_.attempt()),
                                      EncodeDecision(publishing_commit_ ? commit_ : abort_)));
}

CommitMachine::Step CommitMachine::OnPublished(const StoreResult& result) {
  publish_status_ = result.status;
  flush_failed_ |=
      !result.status.ok() && !absl::IsAlreadyExists(result.status) && !IsTransient(result.status);
  if (!result.status.ok()) return ReadSlot(State::kReread);
  if (publishing_commit_) {
    CommitOutcome outcome;
    outcome.kind = CommitOutcome::Kind::kCommitted;
    outcome.decision = commit_;
    return outcome;
  }
  aborted_.decision = abort_;
  return Reclaim();
}

CommitMachine::Step CommitMachine::ReadSlot(State next) {
  return Do(next, MakeOp(OpKind::kReadPublished, DecisionPath(abort_.step(), abort_.attempt())));
}

CommitMachine::Step CommitMachine::OnReread(const StoreResult& result) {
  if (result.status.ok()) return Found(result);
  if (absl::IsNotFound(result.status)) {
    // No decision is there and none of ours will be: publishing again writes a new file.
    const bool hopeless =
        absl::IsResourceExhausted(publish_status_) || absl::IsPermissionDenied(publish_status_);
    if (!hopeless && publishes_ < kMaxTries) return Publish();
    return StoreFailed(publish_status_);
  }
  if (TryAgain(result.status)) return last_;
  return Done(
      CommitOutcome::Kind::kUncertain,
      absl::Status(result.status.code(), absl::StrCat("the decision may be published but cannot be read: ",
                                                      result.status.message())),
      "DURABILITY_UNCERTAIN");
}

CommitMachine::Step CommitMachine::Found(const StoreResult& result) {
  absl::StatusOr<v1::Decision> decision = DecodeDecision(result.bytes);
  if (!decision.ok()) return Done(CommitOutcome::Kind::kUncertain, decision.status(), "DECISION_DAMAGED");
  if (decision->attempt() != abort_.attempt() || decision->step() != abort_.step()) {
    return Done(CommitOutcome::Kind::kUncertain, absl::DataLossError("the decision is of another attempt"),
                "DECISION_DAMAGED");
  }
  if (flush_failed_ &&
      decision->kind() == (publishing_commit_ ? v1::Decision::COMMIT : v1::Decision::ABORT)) {
    return Done(CommitOutcome::Kind::kUncertain,
                absl::AbortedError(
                    absl::StrCat("the decision is there but a flush failed, so a power loss may take it: ",
                                 publish_status_.message())),
                "DURABILITY_UNCERTAIN");
  }
  if (decision->kind() == v1::Decision::COMMIT) {
    CommitOutcome outcome;
    outcome.kind = CommitOutcome::Kind::kCommitted;
    outcome.decision = *std::move(decision);
    return outcome;
  }
  aborted_.decision = *std::move(decision);
  return Reclaim();
}

// ---- after a durable ABORT
// -----------------------------------------------------------------------------------------

CommitMachine::Step CommitMachine::Reclaim() {
  aborted_.kind = CommitOutcome::Kind::kAborted;
  return Do(State::kReclaimList, MakeOp(OpKind::kList, dir_));
}

CommitMachine::Step CommitMachine::OnReclaimList(const StoreResult& result) {
  if (!result.status.ok()) {
    if (TryAgain(result.status)) return last_;
    aborted_.status = result.status;
    return aborted_;
  }
  std::vector<StoreOp> others;
  for (const BlobInfo& info : result.blobs) {
    const std::string leaf(info.path.Leaf());
    if (leaf == kDecisionName) continue;
    StoreOp op = MakeOp(info.is_directory ? OpKind::kDeleteTree : OpKind::kDelete, info.path.text());
    (ParsePartName(leaf) ? deletes_ : others).push_back(std::move(op));
  }
  for (StoreOp& op : others) deletes_.push_back(std::move(op));
  return DeleteNext();
}

CommitMachine::Step CommitMachine::DeleteNext() {
  if (next_delete_ == deletes_.size()) {
    if (!aborted_.status.ok()) aborted_.reason = "STORE_FAILED";
    return aborted_;
  }
  return Do(State::kReclaimed, deletes_[next_delete_]);
}

CommitMachine::Step CommitMachine::OnReclaimed(const StoreResult& result) {
  if (!result.status.ok() && TryAgain(result.status)) return last_;
  // One file that cannot be deleted does not keep the space of the others.
  aborted_.status.Update(result.status);
  ++next_delete_;
  return DeleteNext();
}

// ---- steps
// ---------------------------------------------------------------------------------------------------------

bool CommitMachine::TryAgain(const absl::Status& status) {
  return IsTransient(status) && tries_++ < kMaxTries;
}

CommitMachine::Step CommitMachine::Do(State next, StoreOp op) {
  state_ = next;
  tries_ = 1;
  last_ = std::move(op);
  return last_;
}

CommitMachine::Step CommitMachine::StoreFailed(absl::Status status) {
  return Done(CommitOutcome::Kind::kUndecided, std::move(status), "STORE_FAILED");
}

CommitMachine::Step CommitMachine::Done(CommitOutcome::Kind kind, absl::Status status, std::string reason) {
  CommitOutcome outcome;
  outcome.kind = kind;
  outcome.status = std::move(status);
  outcome.reason = std::move(reason);
  return outcome;
}

}  // namespace keepstep::storage
