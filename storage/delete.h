// Takes checkpoints and the remains of aborted attempts off storage.
//
//   1. List the step's pins. Any → FAILED_PRECONDITION: a pinned step is not hidden even for a moment.
//      Publish <attempt>/DELETING: from here on readers do not see the checkpoint.
//   2. List the pins again. Any → delete DELETING, SyncTree, FAILED_PRECONDITION.
//   3. Delete part 0; SyncTree. From here on there is no way back.
//   4. Delete the other parts, blobs, DECISION; SyncTree; then DELETING; then the directory, and the step's
//      if nothing else is in it.
//
// A reader elsewhere publishes its pin and then looks for DELETING (PinStep): of the two publishes one came
// first, and that side sees the other. A reader without a pin may get NOT_FOUND, never wrong bytes: paths are
// never reused. After a crash the same deletion goes on where it stopped: with DELETING there and part 0 gone
// it looks for no pins, since one that came too late, and is about to be withdrawn, would bring back half a
// checkpoint. One collector per job.

#ifndef KEEPSTEP_STORAGE_DELETE_H_
#define KEEPSTEP_STORAGE_DELETE_H_

#include <cstdint>
#include <deque>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/storage.pb.h"
#include "storage/attempt.h"
#include "storage/blob_store.h"
#include "storage/store_op.h"

namespace keepstep::storage {

// One deletion as a pure script: no I/O, no clock. The driver carries out each operation and passes its
// result to the next call.
class DeletionScript {
 public:
  enum class What : uint8_t {
    kCheckpoint,  // a COMMIT, or one whose deletion had begun, or whose record is damaged
    kAborted,     // what an ABORT left; DECISION stays
  };
  struct Outcome {
    // FAILED_PRECONDITION: pinned, undecided, or not of the kind asked for; nothing is deleted then. After
    // any other error the deletion may have begun; it is safe to begin it again.
    absl::Status status;
    bool pinned = false;
    int64_t freed_bytes = 0;
  };

  // `why` goes into DELETING. REQUIRES: 0 <= step <= kMaxStep.
  DeletionScript(What what, int64_t step, const AttemptId& attempt, const v1::Marker& why);

  // `previous` is null at the first call. Not to be called again after an outcome.
  std::variant<StoreOp, Outcome> Next(const StoreResult* previous);

 private:
  using Step = std::variant<StoreOp, Outcome>;
  enum class State : uint8_t {
    kStart,
    kListed,
    kDecision,
    kPinsBefore,
    kMarked,
    kPins,
    kWithdrawn,
    kWithdrawnSynced,
    kDeleting,  // of contents
    kSynced,
    kTidying,
  };

  Step OnListed(const StoreResult& result);
  Step OnDecision(const StoreResult& result);
  Step OnMarked(const StoreResult& result);
  Step OnPins(const StoreResult& result);
  Step DeleteContents();
  Step Pinned() const;
  Step DeleteNext();
  Step TidyNext();
  Step Do(State next, StoreOp::Kind kind, std::string path, std::string bytes = {});
  Step Refuse(const char* why);

  const What what_;
  const int64_t step_;
  const std::string name_, directory_, marker_;
  State state_ = State::kStart;
  bool no_way_back_ = false;
  std::deque<StoreOp> contents_;
  std::deque<std::string> tidy_;
  Outcome outcome_;
};

// OK when it is already gone. FAILED_PRECONDITION: pinned; undecided (abort it first); aborted
// (ReclaimAborted). `why` goes into DELETING. Blocks, as all below.
absl::Status DeleteCheckpoint(BlobStore& store, int64_t step, const AttemptId& attempt,
                              const v1::Marker& why);

// Deletes everything of an aborted attempt but its DECISION. FAILED_PRECONDITION unless it holds a durable
// ABORT.
absl::Status ReclaimAborted(BlobStore& store, int64_t step, const AttemptId& attempt);

// Keeps a committed step from deletion under `id`, a single path component. ALREADY_EXISTS: that pin is
// there, which is as good. NOT_FOUND, with the pin withdrawn, when no attempt of the step is committed and
// not being deleted.
absl::Status PinStep(BlobStore& store, int64_t step, absl::string_view id, const v1::Marker& why);

// OK when it is already gone.
absl::Status UnpinStep(BlobStore& store, int64_t step, absl::string_view id);

// Ids, sorted.
absl::StatusOr<std::vector<std::string>> ListPins(BlobStore& store, int64_t step);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_DELETE_H_
