// What a job's directory holds, read from storage alone: steps, attempts, decisions, manifests, "latest".
//
// The store's root is the job's directory. Names that are none of ours are ignored. An attempt counts as a
// checkpoint iff its DECISION is a COMMIT of that step and attempt and it has no DELETING marker. Every
// function blocks and is as thread-safe as the store. Errors: the store's; DATA_LOSS for records that are
// damaged or disagree with their place; FAILED_PRECONDITION for a later format.

#ifndef KEEPSTEP_STORAGE_CHECKPOINT_READER_H_
#define KEEPSTEP_STORAGE_CHECKPOINT_READER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/storage.pb.h"
#include "reshard/load_plan.h"
#include "storage/attempt.h"
#include "storage/blob_store.h"

namespace keepstep::storage {

struct AttemptInfo {
  int64_t step = 0;
  AttemptId id;
  bool deleting = false;
  bool has_decision = false;
};

// Ascending.
absl::StatusOr<std::vector<int64_t>> ListSteps(BlobStore& store);
absl::StatusOr<std::vector<AttemptInfo>> ListAttempts(BlobStore& store, int64_t step);

// NOT_FOUND while undecided.
absl::StatusOr<v1::Decision> ReadDecision(BlobStore& store, int64_t step, const AttemptId& attempt);

// The highest committed attempt of a step; NOT_FOUND when there is none. A damaged decision of a higher
// attempt is DATA_LOSS: it may have been a COMMIT.
absl::StatusOr<v1::Decision> CommittedAttempt(BlobStore& store, int64_t step);

// Every COMMIT of a step, by attempt, those that are being deleted too; damaged decisions are left out. An
// error when one cannot be read: whoever is to delete them all would leave it.
absl::StatusOr<std::vector<v1::Decision>> CommittedAttempts(BlobStore& store, int64_t step);

// Every checkpoint, in the order of epochs, then steps; of one step and epoch only the highest attempt.
// Damaged decisions are left out and counted.
struct CheckpointList {
  std::vector<v1::Decision> committed;
  int64_t damaged = 0;
};
absl::StatusOr<CheckpointList> ListCheckpoints(BlobStore& store);

// Newest commit of the newest epoch, else what its PARENT names, else the epoch before. nullopt: nothing to
// load. DATA_LOSS when the decision that could be the answer is damaged.
absl::StatusOr<std::optional<v1::Decision>> ResolveLatest(BlobStore& store);

struct Manifest {
  v1::Decision decision;
  std::vector<v1::Part> parts;  // in the order of their indices
};

// The parts that the decision lists, each verified against it. FAILED_PRECONDITION unless it is a COMMIT;
// NOT_FOUND when it is being deleted.
absl::StatusOr<Manifest> LoadManifest(BlobStore& store, int64_t step, const AttemptId& attempt);

// Points into the parts of its StoredContents.
struct ExtentRef {
  uint32_t part = 0;
  const v1::Blob* blob = nullptr;
  const v1::Extent* extent = nullptr;
};

// Every tensor of a checkpoint by name, aliases too (each with the same boxes under its own name).
// StoredBox::extent is an index into `extents`. Move-only: the references stay valid.
struct StoredContents {
  StoredContents() = default;
  StoredContents(StoredContents&&) = default;
  StoredContents& operator=(StoredContents&&) = default;

  std::vector<v1::Part> parts;
  std::vector<ExtentRef> extents;
  std::map<std::string, reshard::StoredTensor> tensors;
  std::map<std::string, std::string> alias_of;  // alias → the name it was stored under
};

// DATA_LOSS when parts disagree about a tensor.
absl::StatusOr<StoredContents> StoredTensors(std::vector<v1::Part> parts);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_CHECKPOINT_READER_H_
