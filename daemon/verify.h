// Reads every byte of a checkpoint from storage, none from the daemon's memory, and checks every digest.

#ifndef KEEPSTEP_DAEMON_VERIFY_H_
#define KEEPSTEP_DAEMON_VERIFY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/data_plane.h"
#include "daemon/stored_checkpoint.h"
#include "storage/blob_store.h"

namespace keepstep::daemon {

struct Damage {
  std::string blob;          // path in the store
  std::string owner;         // tensor or extra; empty: the header, or the whole blob
  int64_t offset_bytes = 0;  // in the blob
  int64_t size_bytes = 0;
  std::string message;
};

struct VerifyProgress {
  int64_t bytes_total = 0;
  int64_t bytes_done = 0;
  int64_t blocks_done = 0;
};

struct VerifyCallbacks {
  std::function<void(const VerifyProgress&)> progress;  // after each chunk
  std::function<void(const Damage&)> damage;            // at most kMaxDamages times
};

inline constexpr int64_t kMaxDamages = 10000;

struct VerifyResult {
  VerifyProgress progress;
  int64_t damages = 0;
};

// Blocks; callbacks run on this thread. Damage is a result, not an error; so is a blob that is missing or
// cannot be read. Errors: those of the pool and `cancel`.
absl::StatusOr<VerifyResult> VerifyCheckpoint(DataPlane& plane, storage::BlobStore& store,
                                              const StoredCheckpoint& from, const VerifyCallbacks& callbacks,
                                              Cancellation& cancel);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_VERIFY_H_
