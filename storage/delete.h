// Takes checkpoints and the remains of aborted attempts off storage.
//
//   1. Publish <attempt>/DELETING: from here on readers do not see the checkpoint.
//   2. List the step's pins. Any → delete DELETING again, FAILED_PRECONDITION.
//   3. Delete parts, then blobs, then DECISION; SyncTree; then DELETING; then the directory.
//
// A reader elsewhere publishes its pin and then looks for DELETING (PinStep): of the two publishes one came
// first, and that side sees the other. A reader without a pin may get NOT_FOUND, never wrong bytes: paths are
// never reused. After a crash the same call goes on where it stopped. Everything blocks; one collector per
// job.

#ifndef KEEPSTEP_STORAGE_DELETE_H_
#define KEEPSTEP_STORAGE_DELETE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/storage.pb.h"
#include "storage/attempt.h"
#include "storage/blob_store.h"

namespace keepstep::storage {

// OK when it is already gone. FAILED_PRECONDITION: pinned; undecided (abort it first); aborted
// (ReclaimAborted). `why` goes into DELETING.
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

absl::StatusOr<bool> IsPinned(BlobStore& store, int64_t step);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_DELETE_H_
