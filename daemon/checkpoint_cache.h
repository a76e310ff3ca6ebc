// The checkpoints that were read last, parsed and indexed: the ranks of a node that load one step share one
// reading.
//
// Thread-safe; blocks for storage. One reading at a time.

#ifndef KEEPSTEP_DAEMON_CHECKPOINT_CACHE_H_
#define KEEPSTEP_DAEMON_CHECKPOINT_CACHE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/job.h"
#include "daemon/read_box.h"
#include "daemon/reader_leases.h"
#include "daemon/stored_checkpoint.h"
#include "proto/checkpoints.pb.h"

namespace keepstep::daemon {

// While it is held nothing of this daemon deletes the checkpoint.
struct FoundCheckpoint {
  v1::Decision decision;
  ReadSource source;
  ReadLease lease;
};

class CheckpointCache {
 public:
  // `leases` outlives the cache.
  CheckpointCache(int64_t buffer_bytes, ReaderLeases* leases)
      : buffer_bytes_(buffer_bytes), leases_(leases) {}

  // Keeps the attempt from being deleted until it is found; null when it is being deleted.
  ReadLease Hold(const Job& job, absl::string_view attempt) { return leases_->Take(job.LeaseKey(attempt)); }

  // The highest committed attempt of a step, or of the newest checkpoint. NOT_FOUND: no such checkpoint.
  absl::StatusOr<FoundCheckpoint> Find(const Job& job, bool latest, int64_t step);
  absl::StatusOr<FoundCheckpoint> FindAttempt(const Job& job, int64_t step, absl::string_view attempt);
  void Forget(const Job& job, absl::string_view attempt);

 private:
  struct Entry {
    std::string key;
    FoundCheckpoint found;
  };

  const int64_t buffer_bytes_;
  ReaderLeases* const leases_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // newest use first
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_CHECKPOINT_CACHE_H_
