// What a daemon is told at its start, as plain values. Defaults serve as they are; config.h fills it from a
// file.

#ifndef KEEPSTEP_DAEMON_DAEMON_SPEC_H_
#define KEEPSTEP_DAEMON_DAEMON_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/log.h"
#include "daemon/logic/limits.h"
#include "daemon/registration_budget.h"
#include "daemon/rescue_limits.h"
#include "storage/io_engine.h"

namespace keepstep::daemon {

struct ThreadCounts {
  int io = 16;     // store operations, catalog, plans: they wait for storage
  int logic = 2;   // the jobs' decisions: they never wait
  int calls = 32;  // calls that read checkpoints
  int copy = 0;    // copies and digests; 0: one per processor
};

enum class GpuUse { kAuto, kOn, kOff };  // kAuto: on, where the machine has an NVIDIA driver

struct DaemonSpec {
  std::string socket_directory;    // made with mode 0750 if missing
  std::string state_directory;     // made with mode 0700 if missing
  std::vector<std::string> roots;  // directories of jobs that callers without a session may reach
  bool read_only = false;          // nothing beneath any job changes; read_only.h
  int64_t pool_bytes = 0;          // 0: a quarter of the memory
  int64_t pool_idle_ms = 300'000;  // staging memory that nobody took any of for so long is given back
  int64_t window_bytes = int64_t{64} << 20;
  int64_t job_quota_bytes = 0;  // what a job may hold on storage; 0: whatever fits
  int max_sessions = 4096;
  int64_t registrations_bytes = kRegistrationBytes;  // of memory, for what all sessions have registered
  int64_t attempt_idle_ms =
      600'000;  // what is written without a trainer is given up after so long without a call
  storage::IoEngineOptions io;
  ThreadCounts threads;
  Limits limits;
  GpuUse gpu = GpuUse::kAuto;
  int64_t gpu_pool_bytes = 0;  // of each GPU that the daemon may own and lend; 0: none
  int64_t gpu_pool_hold_ms = 300'000;  // of it, what a trainer left that died is kept for so long at most
  RescueSpec rescue;
  std::vector<std::string> device_worker;  // its command; empty: this program with --device-worker
  std::string http_listen;      // http_server.h says its forms; empty: no HTTP
  std::string http_token_file;  // empty: nobody sees other users' jobs over TCP
  std::string config_text;      // all of this and more, as people read it: for bundles
  std::string log_file;         // takes the place of standard error; empty: that stays
  int64_t log_file_bytes = int64_t{16} << 20;
  Log::Format log_format = Log::Format::kText;
  Log::Level log_level = Log::Level::kInfo;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DAEMON_SPEC_H_
