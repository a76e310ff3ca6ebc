// What the gRPC services share: who calls, which jobs there are, where work that blocks runs.

#ifndef KEEPSTEP_DAEMON_SERVER_STATE_H_
#define KEEPSTEP_DAEMON_SERVER_STATE_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/checkpoint_cache.h"
#include "daemon/client_session.h"
#include "daemon/data_plane.h"
#include "daemon/executor.h"
#include "daemon/job_registry.h"
#include "daemon/live_config.h"
#include "daemon/log.h"
#include "daemon/log_ring.h"
#include "daemon/metrics.h"
#include "daemon/pulse.h"
#include "daemon/rescue_limits.h"
#include "daemon/session_registry.h"
#include "storage/catalog.h"

namespace keepstep::daemon {

class AttemptWriter;
class DeviceHub;
class KeptWorlds;
class OwnedMemory;

// Outlives the services and their calls.
struct ServerState {
  SessionRegistry* sessions = nullptr;
  JobRegistry* jobs = nullptr;
  DataPlane* plane = nullptr;
  DeviceHub* devices = nullptr;  // null: GPU memory is not mapped
  OwnedMemory* owned = nullptr;  // there where `devices` is
  KeptWorlds* kept = nullptr;
  RescueLimits* rescue = nullptr;
  CheckpointCache* checkpoints = nullptr;
  ReaderLeases* leases = nullptr;
  AttemptWriter* attempts = nullptr;
  storage::Catalog* catalog = nullptr;
  Executor* calls = nullptr;    // answers that need nothing from the caller
  Executor* streams = nullptr;  // reading, writing, verifying without a trainer: as fast as the caller
  Executor* loads = nullptr;    // trainers' loads: as fast as the trainer
  Log* log = nullptr;
  Metrics* metrics = nullptr;
  LogRing* log_ring = nullptr;
  std::string io_engine;
  std::string io_engine_reason;
  std::string state_directory;
  std::string address;  // unix:///…
  LiveConfig config;
  bool read_only = false;
  std::atomic<bool> draining{false};
  Pulse ticked;  // by the ticker
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
  std::function<void(SessionId, absl::Status)> end_session;
  std::function<void()> drain_begins;  // once
  std::function<void()> end_process;   // as SIGTERM, but nothing more is waited for
};

// The session that the call's token names. UNAUTHENTICATED: no token, or an unknown one (a daemon that has
// restarted).
absl::StatusOr<std::shared_ptr<ClientSession>> RequireSession(const ServerState& state,
                                                              const grpc::CallbackServerContext& context);
// Null without a token; UNAUTHENTICATED for an unknown one.
absl::StatusOr<std::shared_ptr<ClientSession>> OptionalSession(const ServerState& state,
                                                               const grpc::CallbackServerContext& context);
// For calls that change something. FAILED_PRECONDITION where nothing may change.
absl::Status RequireWritable(const ServerState& state);
// Root, or the daemon's own user: sees what belongs to nobody else. Null: no.
bool IsOperator(const ClientSession* session);
// As RequireSession, and it has joined a job. FAILED_PRECONDITION.
absl::StatusOr<std::shared_ptr<ClientSession>> RequireMember(const ServerState& state,
                                                             const grpc::CallbackServerContext& context);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_SERVER_STATE_H_
