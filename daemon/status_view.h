// What the status page and /status.json say: what is wrong, what is in flight, what can be loaded.
//
// Plain values for one viewer, gathered at once. Bounded: kJobsShown jobs, each with its kCheckpointsShown
// newest checkpoints.

#ifndef KEEPSTEP_DAEMON_STATUS_VIEW_H_
#define KEEPSTEP_DAEMON_STATUS_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "daemon/server_state.h"
#include "daemon/viewer.h"
#include "daemon/why.h"

namespace keepstep::daemon {

inline constexpr size_t kJobsShown = 64;
inline constexpr size_t kCheckpointsShown = 12;

struct FlightView {
  std::string job;
  int64_t step = 0;
  std::string stage;
  int64_t total_bytes = 0, done_bytes = 0;  // written, or, while copying, copied
  double seconds = 0;
  double bytes_per_second = 0;  // 0: unknown
  double seconds_left = -1;     // -1: unknown
  bool stuck = false;
  std::vector<int32_t> waiting_for_ranks;
};

struct StoredView {
  int64_t step = 0, epoch = 0;
  int64_t bytes = 0;
  int32_t world_size = 0;
  int64_t unix_ms = 0;
  bool pinned = false;
};

struct JobRow {
  std::string job, directory, health;
  int32_t ranks = 0, world_size = 0;
  int64_t last_commit_unix_ms = 0;
  int64_t free_bytes = 0, total_bytes = 0;
  size_t stored = 0;                    // all of them
  std::vector<StoredView> checkpoints;  // newest first
};

struct StatusView {
  std::string version, io_engine, readiness;  // readiness: "ready", or why not
  double uptime_seconds = 0;
  int64_t pool_used_bytes = 0, pool_limit_bytes = 0;
  size_t sessions = 0;
  size_t jobs_known = 0;  // also those that the viewer may not see
  int64_t now_unix_ms = 0;
  std::vector<Problem> problems;  // worst first
  std::vector<FlightView> flights;
  std::vector<JobRow> jobs;
};

// Blocks for the jobs' strands, the catalog, and the pins on storage.
StatusView GatherStatus(const ServerState& state, const Viewer& viewer);

// A whole page: no scripts, nothing fetched, every value escaped; it reloads itself.
std::string RenderHtml(const StatusView& view);
// The same facts, for programs.
std::string RenderJson(const StatusView& view);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_STATUS_VIEW_H_
