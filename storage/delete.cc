// The blocking side of deletion, and pins.

#include "storage/delete.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "storage/checkpoint_reader.h"
#include "storage/record.h"

namespace keepstep::storage {
namespace {

absl::Status CheckStep(int64_t step) {
  if (step >= 0 && step <= kMaxStep) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("step ", step, " is out of range"));
}

absl::Status Drive(BlobStore& store, DeletionScript script) {
  StoreResult result;
  std::variant<StoreOp, DeletionScript::Outcome> next = script.Next(nullptr);
  while (const StoreOp* op = std::get_if<StoreOp>(&next)) {
    result = RunStoreOp(store, *op);
    next = script.Next(&result);
  }
  return std::get<DeletionScript::Outcome>(next).status;
}

absl::StatusOr<BlobPath> PinPath(int64_t step, absl::string_view id) {
  if (absl::Status status = CheckStep(step); !status.ok()) return status;
  absl::StatusOr<BlobPath> path = BlobPath::Parse(absl::StrCat(PinsPath(step), "/", id));
  if (path.ok() && (path->Parent().text() != PinsPath(step) || absl::StartsWith(id, kTemporaryPrefix)))
    return absl::InvalidArgumentError("a pin's id is one path component, and none of a temporary file");
  return path;
}

}  // namespace

absl::Status DeleteCheckpoint(BlobStore& store, int64_t step, const AttemptId& attempt,
                              const v1::Marker& why) {
  if (absl::Status status = CheckStep(step); !status.ok()) return status;
  return Drive(store, DeletionScript(DeletionScript::What::kCheckpoint, step, attempt, why));
}

absl::Status ReclaimAborted(BlobStore& store, int64_t step, const AttemptId& attempt) {
  if (absl::Status status = CheckStep(step); !status.ok()) return status;
  return Drive(store, DeletionScript(DeletionScript::What::kAborted, step, attempt, {}));
}

absl::StatusOr<std::vector<std::string>> ListPins(BlobStore& store, int64_t step) {
  if (absl::Status status = CheckStep(step); !status.ok()) return status;
  absl::StatusOr<BlobPath> directory = BlobPath::Parse(PinsPath(step));
  if (!directory.ok()) return directory.status();
  absl::StatusOr<std::vector<BlobInfo>> listed = store.List(*directory);
  if (!listed.ok()) return listed.status();
  std::vector<std::string> pins;
  for (const BlobInfo& pin : *listed) {
    if (!absl::StartsWith(pin.path.Leaf(), kTemporaryPrefix)) pins.emplace_back(pin.path.Leaf());
  }
  return pins;
}

absl::Status PinStep(BlobStore& store, int64_t step, absl::string_view id, const v1::Marker& why) {
  absl::StatusOr<BlobPath> path = PinPath(step, id);
  if (!path.ok()) return path.status();
  absl::Status status = store.PublishExclusive(*path, EncodeMarker(why));
  if (!status.ok() && !absl::IsAlreadyExists(status)) return status;
  absl::StatusOr<v1::Decision> committed = CommittedAttempt(store, step);
  if (committed.ok()) return status;
  // Another holder's pin, or one whose step we could not read, is not ours to withdraw.
  if (!status.ok() || !absl::IsNotFound(committed.status())) return committed.status();
  absl::Status withdrawn = store.Delete(*path);
  return withdrawn.ok() ? committed.status() : withdrawn;
}

absl::Status UnpinStep(BlobStore& store, int64_t step, absl::string_view id) {
  absl::StatusOr<BlobPath> path = PinPath(step, id);
  return path.ok() ? store.Delete(*path) : path.status();
}

}  // namespace keepstep::storage
