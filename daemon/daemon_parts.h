// What a daemon is made of, for the sources that define Daemon and for nobody else: what is started and stopped is in
// daemon.cc, what listens in daemon_serving.cc, what becomes of sessions in daemon_sessions.cc.

#ifndef KEEPSTEP_DAEMON_DAEMON_PARTS_H_
#define KEEPSTEP_DAEMON_DAEMON_PARTS_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "daemon/attempt_writer.h"
#include "daemon/checkpoints_service.h"
#include "daemon/daemon.h"
#include "daemon/device/device_hub.h"
#include "daemon/device/owned_memory.h"
#include "daemon/device/trainer_pieces.h"
#include "daemon/grpc_listener.h"
#include "daemon/handoff_server.h"
#include "daemon/http_pages.h"
#include "daemon/http_server.h"
#include "daemon/kept_worlds.h"
#include "daemon/node_service.h"
#include "daemon/sessions_service.h"
#include "daemon/ticker.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

// In the order of construction; ~Parts says in which they end.
struct Daemon::Parts : public HandoffEvents {
  explicit Parts(const DaemonSpec& given) : spec(given), log(given.log_format, given.log_level), rescue(given.rescue) {
    log.KeepIn(&log_ring);
  }
  ~Parts() override;

  absl::Status StartStorage();
  void StartJobs();
  absl::Status StartServing();
  absl::Status StartHttp();
  absl::Status TakeToken(const std::string& file);
  int SessionsAllowed(int configured);
  void Reconfigure(const DaemonSpec& changed);
  void EndSession(SessionId id, absl::Status why);
  void KeepMemory(ClientSession& session);

  absl::Status Admit() override;
  void OnSession(std::shared_ptr<ClientSession> session) override { sessions.Add(std::move(session)); }
  void OnNotify(ClientSession& session) override;
  void OnAskSave(const std::shared_ptr<ClientSession>& session, absl::string_view request) override {
    sessions_service->SaveAsked(session, request);
  }
  void OnLost(ClientSession& session) override;
  void OnDead(ClientSession& session, bool left) override;

  const DaemonSpec spec;
  Metrics metrics;
  LogRing log_ring;
  Log log;
  storage::UniqueFd lock, socket_lock;
  std::string address;
  storage::IoEngineChoice engine;
  std::unique_ptr<DataPlane> plane;
  std::unique_ptr<DeviceHub> devices;  // null: GPU memory is not mapped
  std::unique_ptr<OwnedMemory> owned;  // there where `devices` is
  PiecesByProcess pieces;
  KeptWorlds kept{std::chrono::milliseconds(spec.gpu_pool_hold_ms)};
  std::unique_ptr<storage::Catalog> catalog;
  bool trust_rosters = true;
  ReaderLeases leases;
  RescueLimits rescue;
  SessionRegistry sessions;
  std::unique_ptr<Executor> logic, io, calls, streams, loads;
  std::unique_ptr<JobRegistry> jobs;
  std::unique_ptr<CheckpointCache> checkpoints;
  std::unique_ptr<AttemptWriter> attempts;
  ServerState state;
  std::atomic<bool> exit_requested{false};
  std::shared_ptr<RegistrationBudget> registrations;
  std::mutex handoff_mutex;
  std::unique_ptr<HandoffServer> handoff;
  std::unique_ptr<SessionsService> sessions_service;
  std::unique_ptr<CheckpointsService> checkpoints_service;
  std::unique_ptr<NodeService> node_service;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<GrpcListener> listener;
  std::unique_ptr<PoolKeeper> keeper;
  std::unique_ptr<Ticker> ticker;
  OperatorToken token;
  std::unique_ptr<HttpServer> http;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DAEMON_PARTS_H_
