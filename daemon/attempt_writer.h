// Checkpoints written over gRPC, without a trainer: Begin, Write, Commit, Abort.
//
//   1. Begin checks the layout, claims the job's first epoch if it has none, and journals the attempt.
//   2. Write puts bytes into an unlinked spool file in the daemon's state directory: bounded by that disk,
//   not by
//      memory.
//   3. Commit moves them through the same pipeline, part and commit as a trainer's save, with the spool as
//   its
//      memory.
//   4. Abort, a failed commit, or too long without a call publish ABORT and reclaim. A restart does so by
//   the
//      journal.
//
// It does not join the job's world: a running job is not disturbed, and a claim meanwhile aborts the attempt.

#ifndef KEEPSTEP_DAEMON_ATTEMPT_WRITER_H_
#define KEEPSTEP_DAEMON_ATTEMPT_WRITER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/data_plane.h"
#include "daemon/job.h"
#include "daemon/log.h"
#include "daemon/registration.h"
#include "daemon/spool.h"
#include "proto/checkpoints.pb.h"
#include "reshard/save_plan.h"
#include "storage/catalog.h"

namespace keepstep::daemon {

inline constexpr size_t kMaxOpenAttempts = 16;

// Thread-safe; every call blocks for storage.
class AttemptWriter {
 public:
  // `quota_bytes`: what a job may hold; 0: no quota.
  AttemptWriter(DataPlane* plane, storage::Catalog* catalog, Log* log, std::string spool_directory,
                std::chrono::milliseconds idle_limit, int64_t quota_bytes);

  // ALREADY_EXISTS: the step is committed in this epoch. RESOURCE_EXHAUSTED: no room for it, or to spool it;
  // too many attempts. Errors of the layout as MakeSavePlan.
  absl::StatusOr<v1::BeginResponse> Begin(std::shared_ptr<Job> job, const v1::BeginRequest& request);
  // INVALID_ARGUMENT: an unknown tensor or box; OUT_OF_RANGE: past its end; FAILED_PRECONDITION: out of
  // order.
  absl::Status Write(absl::string_view attempt, const v1::WriteChunk& chunk);
  // FAILED_PRECONDITION while bytes are missing.
  absl::StatusOr<v1::Decision> Commit(absl::string_view attempt);
  absl::Status Abort(absl::string_view attempt);
  // The job of an attempt, for its permission check. NOT_FOUND.
  absl::StatusOr<std::shared_ptr<Job>> JobOf(absl::string_view attempt);
  // Gives up what nobody has called for longer than the limit: its caller has gone.
  void AbortIdle();
  // Attempts that are neither committed nor given up.
  size_t open() const;
  // For open attempts too, but one that Begin found room for keeps it.
  void SetLimits(std::chrono::milliseconds idle_limit, int64_t quota_bytes);

 private:
  struct Attempt {
    std::mutex mutex;
    std::shared_ptr<Job> job;
    std::string name;
    int64_t step = 0, epoch = 0;
    std::shared_ptr<const reshard::SavePlan> plan;
    std::shared_ptr<const reshard::RankShards> shards;  // buffer 0 is the spool
    std::map<std::string, uint32_t> by_name;
    std::vector<std::vector<int64_t>> received_bytes;  // by shard, then box
    std::shared_ptr<Spool> spool;
    v1::Decision intent;
    std::chrono::steady_clock::time_point used = std::chrono::steady_clock::now();
    bool over = false;
  };

  absl::StatusOr<std::shared_ptr<Attempt>> Find(absl::string_view name);
  absl::Status Lay(const v1::BeginRequest& request, Attempt& attempt);
  absl::StatusOr<v1::Decision> Publish(Attempt& attempt);
  void GiveUp(Attempt& attempt, const absl::Status& why);
  void Forget(absl::string_view name);

  DataPlane* const plane_;
  storage::Catalog* const catalog_;
  Log* const log_;
  const std::string spool_directory_;
  std::atomic<std::chrono::milliseconds> idle_limit_;
  std::atomic<int64_t> quota_bytes_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Attempt>, std::less<>> attempts_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_ATTEMPT_WRITER_H_
