// The order of delete.h, step by step; every step may find that an earlier call already took it.

#include "storage/delete.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/checkpoint_reader.h"
#include "storage/record.h"

namespace keepstep::storage {
namespace {

absl::Status CheckStep(int64_t step) {
  if (step >= 0 && step <= kMaxStep) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("step ", step, " is out of range"));
}

absl::Status DeletePath(BlobStore& store, const std::string& path) {
  absl::StatusOr<BlobPath> parsed = BlobPath::Parse(path);
  return parsed.ok() ? store.Delete(*parsed) : parsed.status();
}

absl::Status Remove(BlobStore& store, const BlobInfo& info) {
  return info.is_directory ? DeleteTree(store, info.path) : store.Delete(info.path);
}

// Parts first, so that nothing that is half gone still looks whole; never DECISION or DELETING.
absl::Status RemoveContents(BlobStore& store, const BlobPath& directory) {
  absl::StatusOr<std::vector<BlobInfo>> files = store.List(directory);
  if (!files.ok()) return files.status();
  for (const bool parts : {true, false}) {
    for (const BlobInfo& info : *files) {
      const absl::string_view leaf = info.path.Leaf();
      if (leaf == kDecisionName || leaf == kDeletingName || ParsePartName(leaf).has_value() != parts)
        continue;
      absl::Status status = Remove(store, info);
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Exists(BlobStore& store, const std::string& path) {
  absl::StatusOr<BlobPath> parsed = BlobPath::Parse(path);
  if (!parsed.ok()) return parsed.status();
  absl::StatusOr<std::string> bytes = store.ReadPublished(*parsed);
  if (bytes.ok()) return true;
  if (absl::IsNotFound(bytes.status())) return false;
  return bytes.status();
}

// Publishes, or finds published, a marker: which of the two does not matter.
absl::Status PublishMarker(BlobStore& store, const BlobPath& path, const v1::Marker& marker) {
  absl::Status status = store.PublishExclusive(path, EncodeMarker(marker));
  return absl::IsAlreadyExists(status) ? absl::OkStatus() : status;
}

absl::Status CheckDeletable(BlobStore& store, int64_t step, const AttemptId& attempt) {
  absl::StatusOr<v1::Decision> decision = ReadDecision(store, step, attempt);
  if (absl::IsNotFound(decision.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat(AttemptDir(step, AttemptName(attempt)), " is undecided: abort it before its deletion"));
  }
  if (absl::IsDataLoss(decision.status())) return absl::OkStatus();  // damage is what one wants to be rid of
  if (!decision.ok()) return decision.status();
  if (decision->kind() == v1::Decision::COMMIT) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(AttemptDir(step, AttemptName(attempt)), " was aborted: its record stays"));
}

absl::Status CheckNotPinned(BlobStore& store, int64_t step) {
  absl::StatusOr<bool> pinned = IsPinned(store, step);
  if (!pinned.ok()) return pinned.status();
  if (!*pinned) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("step ", step, " is pinned: unpin it before its deletion"));
}

absl::Status RemoveAttempt(BlobStore& store, int64_t step, const std::string& attempt,
                           const BlobPath& directory) {
  absl::Status status = RemoveContents(store, directory);
  if (!status.ok()) return status;
  status = DeletePath(store, DecisionPath(step, attempt));
  if (!status.ok()) return status;
  // DELETING must not go first: a COMMIT without parts would look like damage.
  status = store.SyncTree(directory);
  if (!status.ok()) return status;
  status = DeletePath(store, DeletingPath(step, attempt));
  if (!status.ok()) return status;
  return store.Delete(directory);
}

}  // namespace

absl::StatusOr<bool> IsPinned(BlobStore& store, int64_t step) {
  absl::Status valid = CheckStep(step);
  if (!valid.ok()) return valid;
  absl::StatusOr<BlobPath> directory = BlobPath::Parse(PinsPath(step));
  if (!directory.ok()) return directory.status();
  absl::StatusOr<std::vector<BlobInfo>> pins = store.List(*directory);
  if (!pins.ok()) return pins.status();
  for (const BlobInfo& pin : *pins) {
    if (pin.path.Leaf().substr(0, sizeof kTemporaryPrefix - 1) != kTemporaryPrefix) return true;
  }
  return false;
}

absl::Status DeleteCheckpoint(BlobStore& store, int64_t step, const AttemptId& attempt,
                              const v1::Marker& why) {
  absl::Status status = CheckStep(step);
  if (!status.ok()) return status;
  const std::string name = AttemptName(attempt);
  absl::StatusOr<BlobPath> directory = BlobPath::Parse(AttemptDir(step, name));
  absl::StatusOr<BlobPath> marker = BlobPath::Parse(DeletingPath(step, name));
  if (!directory.ok() || !marker.ok())
    return absl::InvalidArgumentError("a step and attempt that make no path");
  absl::StatusOr<std::vector<BlobInfo>> files = store.List(*directory);
  if (!files.ok()) return files.status();
  if (files->empty()) return store.Delete(*directory);
  absl::StatusOr<bool> begun = Exists(store, marker->text());
  if (!begun.ok()) return begun.status();
  if (!*begun) {
    status = CheckDeletable(store, step, attempt);
    if (status.ok()) status = CheckNotPinned(store, step);  // a pinned step is not hidden even for a moment
    if (status.ok()) status = PublishMarker(store, *marker, why);
    if (!status.ok()) return status;
  }
  if (absl::Status pinned = CheckNotPinned(store, step);
      !pinned.ok()) {  // since, by somebody who saw no marker
    if (!absl::IsFailedPrecondition(pinned)) return pinned;
    status = store.Delete(*marker);
    return status.ok() ? pinned : status;
  }
  return RemoveAttempt(store, step, name, *directory);
}

absl::Status ReclaimAborted(BlobStore& store, int64_t step, const AttemptId& attempt) {
  absl::StatusOr<v1::Decision> decision = ReadDecision(store, step, attempt);
  if (absl::IsNotFound(decision.status()) || (decision.ok() && decision->kind() != v1::Decision::ABORT)) {
    return absl::FailedPreconditionError(
        absl::StrCat(AttemptDir(step, AttemptName(attempt)), " was not aborted"));
  }
  if (!decision.ok()) return decision.status();
  absl::StatusOr<BlobPath> directory = BlobPath::Parse(AttemptDir(step, AttemptName(attempt)));
  if (!directory.ok()) return directory.status();
  return RemoveContents(store, *directory);
}

absl::Status PinStep(BlobStore& store, int64_t step, absl::string_view id, const v1::Marker& why) {
  absl::Status status = CheckStep(step);
  if (!status.ok()) return status;
  absl::StatusOr<BlobPath> path = BlobPath::Parse(absl::StrCat(PinsPath(step), "/", id));
  if (!path.ok()) return path.status();
  if (path->Parent().text() != PinsPath(step))
    return absl::InvalidArgumentError("a pin's id is one path component");
  status = store.PublishExclusive(*path, EncodeMarker(why));
  if (!status.ok() && !absl::IsAlreadyExists(status)) return status;
  absl::StatusOr<v1::Decision> committed = CommittedAttempt(store, step);
  if (committed.ok()) return status;
  // Another holder's pin, or one whose step we could not read, is not ours to withdraw.
  if (!status.ok() || !absl::IsNotFound(committed.status())) return committed.status();
  absl::Status withdrawn = store.Delete(*path);
  return withdrawn.ok() ? committed.status() : withdrawn;
}

absl::Status UnpinStep(BlobStore& store, int64_t step, absl::string_view id) {
  absl::Status status = CheckStep(step);
  if (!status.ok()) return status;
  absl::StatusOr<BlobPath> path = BlobPath::Parse(absl::StrCat(PinsPath(step), "/", id));
  if (!path.ok()) return path.status();
  if (path->Parent().text() != PinsPath(step))
    return absl::InvalidArgumentError("a pin's id is one path component");
  return store.Delete(*path);
}

}  // namespace keepstep::storage
