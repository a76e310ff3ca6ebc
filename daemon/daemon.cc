#include "daemon/daemon.h"

#include <fcntl.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/attempt_writer.h"
#include "daemon/checkpoints_service.h"
#include "daemon/error.h"
#include "daemon/grpc_listener.h"
#include "daemon/device/device_hub.h"
#include "daemon/device/owned_memory.h"
#include "daemon/device/trainer_pieces.h"
#include "daemon/handoff_server.h"
#include "daemon/health.h"
#include "daemon/http_pages.h"
#include "daemon/kept_worlds.h"
#include "daemon/http_server.h"
#include "daemon/log_file.h"
#include "daemon/node_service.h"
#include "daemon/sessions_service.h"
#include "daemon/ticker.h"
#include "daemon/version.h"
#include "daemon/viewer.h"
#include "proto/handoff.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kMaxTasks = 4096;  // that calls from outside may let wait, of each kind
constexpr int kMaxMessageBytes = 64 << 20;
constexpr size_t kMessageMemoryBytes = 256 << 20;  // of all messages that arrive; gRPC makes the others wait
constexpr int kCallsOfAConnection = 128;
constexpr int kIdleConnectionMs = 300'000;
constexpr int kConnectionsOfASession = 2, kOtherConnections = 64;
// Of a session: its socket, its process, the directory, the pages, the window, the flight record; and its connections.
constexpr int kDescriptorsOfASession = 8 + kConnectionsOfASession;
constexpr int kOtherDescriptors = 256;  // stores, catalog, log, connections without a session
// What calls under way get at shutdown. An idle client acknowledges the end only at its next poll, up to 5 s
// later.
constexpr std::chrono::seconds kCallsLimit(1);

absl::Status Errno(absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(what, ": ", strerror(errno)));
}

// As many as are configured, or as there are descriptors for: out of descriptors, nothing could be written
// either.
int SessionsLimit(int configured) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return configured;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return configured;
  const int64_t room = (static_cast<int64_t>(limit.rlim_cur) - kOtherDescriptors) / kDescriptorsOfASession;
  return static_cast<int>(std::clamp<int64_t>(room, 1, configured));
}

int ConnectionsOf(int sessions) { return sessions * kConnectionsOfASession + kOtherConnections; }

absl::Status MakeDirectory(const std::string& path, mode_t mode) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return Errno(path);
  return absl::OkStatus();
}

absl::StatusOr<storage::UniqueFd> TakeLock(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/lock");
  storage::UniqueFd lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.valid()) return Errno(path);
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("another keepstepd holds ", path,
                     ". Stop it, or give this one its own --state-dir and --socket-dir."));
  }
  return lock;
}

// The kernel module's control device: also in containers that were given a GPU.
bool HasGpuDriver() { return access("/dev/nvidiactl", F_OK) == 0; }

}  // namespace

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

absl::Status Daemon::Parts::StartStorage() {
  auto made = storage::MakeIoEngine(spec.io);
  if (!made.ok()) return made.status();
  engine = *std::move(made);
  DataPlaneSpec plane_spec;
  const bool gpu = !spec.read_only && (spec.gpu == GpuUse::kOn || (spec.gpu == GpuUse::kAuto && HasGpuDriver()));
  plane_spec.pool.limit_bytes = spec.pool_bytes;
  plane_spec.pool.shared = gpu;
  plane_spec.copy_workers = spec.threads.copy;
  plane_spec.meters = metrics.plane();
  auto started = DataPlane::Start(plane_spec);
  if (!started.ok()) return started.status();
  plane = *std::move(started);
  if (gpu) {
    devices = std::make_unique<DeviceHub>(DeviceHubSpec{.command = spec.device_worker}, &plane->pool(), &log);
    owned = std::make_unique<OwnedMemory>(MadeByWorkers(devices.get()), spec.gpu_pool_bytes);
  }
  auto opened = storage::Catalog::Open(absl::StrCat(spec.state_directory, "/catalog"));
  if (!opened.ok()) return opened.status();
  catalog = std::move(opened->catalog);
  trust_rosters = !opened->rebuilt;
  if (opened->rebuilt)
    log.Warn("The catalog was damaged; it is rebuilt from storage.", {{"moved_to", opened->moved_to}});
  return absl::OkStatus();
}

void Daemon::Parts::StartJobs() {
  io = std::make_unique<Executor>(spec.threads.io, kMaxTasks, "ks-io");
  logic = std::make_unique<Executor>(spec.threads.logic, kMaxTasks, "ks-logic");
  calls = std::make_unique<Executor>(spec.threads.calls, kMaxTasks, "ks-calls");
  streams = std::make_unique<Executor>(spec.threads.calls, kMaxTasks, "ks-streams");
  loads = std::make_unique<Executor>(spec.threads.calls, kMaxTasks, "ks-loads");
  auto end_session = [this](SessionId id, absl::Status why) { EndSession(id, std::move(why)); };
  const JobServices services{.plane = plane.get(),
                             .logic = logic.get(),
                             .io = io.get(),
                             .catalog = catalog.get(),
                             .leases = &leases,
                             .rescue = &rescue,
                             .log = &log,
                             .metrics = &metrics,
                             .limits = spec.limits,
                             .trust_rosters = trust_rosters,
                             .read_only = spec.read_only,
                             .quota_bytes = spec.job_quota_bytes,
                             .end_session = end_session,
                             .forget_checkpoint = [this](const Job& job, absl::string_view attempt) {
                               checkpoints->Forget(job, attempt);
                             }};
  checkpoints = std::make_unique<CheckpointCache>(plane->pool().buffer_bytes(), &leases);
  jobs = std::make_unique<JobRegistry>(services, engine.engine.get(), spec.roots);
  attempts =
      std::make_unique<AttemptWriter>(plane.get(), catalog.get(), &log, spec.state_directory,
                                      std::chrono::milliseconds(spec.attempt_idle_ms), spec.job_quota_bytes);
  state.sessions = &sessions;
  state.jobs = jobs.get();
  state.plane = plane.get();
  state.checkpoints = checkpoints.get();
  state.leases = &leases;
  state.attempts = attempts.get();
  state.catalog = catalog.get();
  state.calls = calls.get();
  state.streams = streams.get();
  state.loads = loads.get();
  state.log = &log;
  state.metrics = &metrics;
  state.log_ring = &log_ring;
  state.read_only = spec.read_only;
  state.devices = devices.get();
  state.owned = owned.get();
  state.kept = &kept;
  state.rescue = &rescue;
  state.io_engine = engine.name;
  state.io_engine_reason = engine.reason;
  state.state_directory = spec.state_directory;
  state.address = absl::StrCat("unix://", spec.socket_directory, "/", proto::kGrpcSocketName);
  state.config.Set(spec.limits, spec.config_text);
  state.end_session = end_session;
  // Nobody new is to be sent here, and no save starts; what is stored can still be read.
  state.drain_begins = [this] {
    server->GetHealthCheckService()->SetServingStatus("", false);
    server->GetHealthCheckService()->SetServingStatus(v1::Sessions::service_full_name(), false);
  };
  state.end_process = [this] {
    exit_requested = true;
    kill(getpid(), SIGTERM);
  };
  jobs->OpenKnown();
  if (spec.read_only) return;  // an index for one look is not worth reading everything
  for (const auto& job : jobs->All()) {
    io->Submit([this, job] {
      auto changed = catalog->Reconcile(job->identity().path, *job->store());
      if (changed.ok() && *changed == 0) return;
      log.Info("catalog reconciled with storage",
               {{"job", job->label()},
                {"rows", changed.ok() ? absl::StrCat(*changed) : std::string(changed.status().message())}});
    });
  }
}

int Daemon::Parts::SessionsAllowed(int configured) {
  const int allowed = SessionsLimit(configured);
  if (allowed < configured) {
    log.Warn("fewer sessions than configured: too few descriptors are allowed (LimitNOFILE, ulimit -n)",
             {{"sessions", absl::StrCat(allowed)}, {"configured", absl::StrCat(configured)}});
  }
  return allowed;
}

void Daemon::Parts::Reconfigure(const DaemonSpec& changed) {
  log.SetFormat(changed.log_format);
  log.SetLevel(changed.log_level);
  const int sessions_limit = SessionsAllowed(changed.max_sessions);
  jobs->SetLimits(changed.limits, changed.job_quota_bytes);
  attempts->SetLimits(std::chrono::milliseconds(changed.attempt_idle_ms), changed.job_quota_bytes);
  registrations->SetLimit(changed.registrations_bytes);
  rescue.Set(changed.rescue);
  handoff->SetLimits(sessions_limit, changed.window_bytes);
  listener->SetMaxConnections(ConnectionsOf(sessions_limit));
  keeper->SetIdle(std::chrono::milliseconds(changed.pool_idle_ms));
  state.config.Set(changed.limits, changed.config_text);
  if (http == nullptr) return;
  if (absl::Status status = TakeToken(changed.http_token_file); !status.ok())
    log.Write(Log::Level::kError, "the operator's token stays as it was",
              {{"why", std::string(status.message())}});
}

absl::Status Daemon::Parts::StartServing() {
  const std::string grpc_path = absl::StrCat(spec.socket_directory, "/", proto::kGrpcSocketName);
  const int sessions_limit = SessionsAllowed(spec.max_sessions);
  registrations = std::make_shared<RegistrationBudget>(spec.registrations_bytes);
  HandoffSpec handoff_spec{.socket_path = absl::StrCat(spec.socket_directory, "/", proto::kHandoffSocketName),
                           .max_connections = sessions_limit,
                           .window_bytes = spec.window_bytes,
                           .registrations = registrations,
                           .devices = devices.get(),
                           .pieces = &pieces};
  unlink(grpc_path.c_str());
  unlink(handoff_spec.socket_path.c_str());
  address = absl::StrCat("unix://", grpc_path);

  sessions_service = std::make_unique<SessionsService>(&state);
  checkpoints_service = std::make_unique<CheckpointsService>(&state);
  node_service = std::make_unique<NodeService>(&state);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  builder.SetResourceQuota(grpc::ResourceQuota("keepstepd").Resize(kMessageMemoryBytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kCallsOfAConnection);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleConnectionMs);
  builder.RegisterService(sessions_service.get());
  builder.RegisterService(checkpoints_service.get());
  builder.RegisterService(node_service.get());
  server = builder.BuildAndStart();
  if (server == nullptr) return absl::FailedPreconditionError("gRPC does not start");
  for (const char* service : {v1::Sessions::service_full_name(), v1::Checkpoints::service_full_name(),
                              v1::Node::service_full_name()}) {
    server->GetHealthCheckService()->SetServingStatus(service, true);
  }
  auto listening = GrpcListener::Start(
      {.socket_path = grpc_path, .max_connections = ConnectionsOf(sessions_limit)}, server.get());
  if (!listening.ok()) return listening.status();
  listener = *std::move(listening);
  auto started = HandoffServer::Start(handoff_spec, this);
  if (!started.ok()) return started.status();
  {
    std::lock_guard guard(handoff_mutex);
    handoff = *std::move(started);
  }
  keeper = std::make_unique<PoolKeeper>(
      &plane->pool(), [this] { return sessions.RegisteredBytes(); },
      PoolKeeper::Options{.idle = std::chrono::milliseconds(spec.pool_idle_ms)});
  ticker = std::make_unique<Ticker>(&sessions, jobs.get(), attempts.get(), calls.get(), keeper.get(),
                                    &kept, &state.ticked);
  return StartHttp();
}

absl::Status Daemon::Parts::StartHttp() {
  if (spec.http_listen.empty()) return absl::OkStatus();
  if (absl::Status status = TakeToken(spec.http_token_file); !status.ok()) return status;
  auto started = HttpServer::Start({.listen = spec.http_listen}, HttpPages(&state, &token));
  if (!started.ok()) return started.status();
  http = *std::move(started);
  return absl::OkStatus();
}

absl::Status Daemon::Parts::TakeToken(const std::string& file) {
  absl::StatusOr<std::string> read = file.empty() ? std::string() : ReadToken(file);
  if (read.ok()) token.Set(*std::move(read));
  return read.status();
}

void Daemon::Parts::EndSession(SessionId id, absl::Status why) {
  if (!sessions.Remove(id, std::move(why))) return;
  std::lock_guard guard(handoff_mutex);
  if (handoff != nullptr) handoff->Forget(id);
}

absl::Status Daemon::Parts::Admit() {
  if (!state.draining) return absl::OkStatus();
  return MakeError(absl::StatusCode::kUnavailable, "DRAINING",
                   "keepstepd is shutting down. Connect again after its restart.", "handoff");
}

void Daemon::Parts::OnNotify(ClientSession& session) {
  const auto member = session.membership();
  if (!member.has_value() || !member->training || !session.NoticeCame()) return;
  member->job->LookAtVerdicts(session.id());
}

void Daemon::Parts::OnLost(ClientSession& session) {
  const auto member = session.membership();
  if (member.has_value() && member->training) {
    member->job->SessionGone(session.id(), false);
    return;
  }
  EndSession(session.id(), absl::CancelledError("The client has gone."));
}

// Before anything else of the session ends.
void Daemon::Parts::KeepMemory(ClientSession& session) {
  const auto member = session.membership();
  const auto registration = session.registration();
  if (!member.has_value() || !member->training || !member->warm || registration == nullptr || session.epoch() == 0) return;
  KeptRank rank{.epoch = session.epoch(),
                .rank = member->rank,
                .world_size = member->world_size,
                .registration = registration,
                .pieces = session.pieces().All(),
                .flight_record = storage::UniqueFd(fcntl(session.flight_record(), F_DUPFD_CLOEXEC, 0))};
  if (rank.pieces.empty() || !rank.flight_record.valid()) return;
  log.Info("memory kept", {{"job", member->job->label()},
                           {"rank", absl::StrCat(member->rank)},
                           {"epoch", absl::StrCat(session.epoch())},
                           {"allocations", absl::StrCat(rank.pieces.size())}});
  kept.Keep(member->job->identity().path, std::move(rank), KeptWorlds::Clock::now());
}

void Daemon::Parts::OnDead(ClientSession& session, bool left) {
  const auto member = session.membership();
  if (!left) KeepMemory(session);
  if (!left && member.has_value() && member->training && session.rescue().granted) {
    if (auto taken = sessions.Take(session.id())) member->job->SessionDied(std::move(taken));
    return;
  }
  if (member.has_value() && member->training) member->job->SessionGone(session.id(), true);
  sessions.Remove(session.id(), MakeError(absl::StatusCode::kAborted, "TRAINER_DIED",
                                          "The trainer's process has ended.", "copy"));
}

Daemon::Parts::~Parts() {
  http = nullptr;
  ticker = nullptr;
  std::unique_ptr<HandoffServer> last;
  {
    std::lock_guard guard(handoff_mutex);
    last = std::move(handoff);
  }
  last = nullptr;  // without the lock: its thread may be in EndSession
  for (const auto& session : sessions.All())
    sessions.Remove(session->id(), absl::UnavailableError("The daemon stops."));
  listener = nullptr;
  if (server != nullptr) server->Shutdown(std::chrono::system_clock::now() + kCallsLimit);
  loads = nullptr;
  streams = nullptr;
  log_ring.Silence();  // its listeners use `calls`
  calls = nullptr;
  server = nullptr;
  if (jobs != nullptr) jobs->StopAll();
  io = nullptr;
  logic = nullptr;
  jobs = nullptr;
}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const DaemonSpec& spec) {
  if (spec.socket_directory.empty() || spec.state_directory.empty()) {
    return absl::InvalidArgumentError("a daemon needs a socket directory and a state directory");
  }
  auto parts = std::make_unique<Parts>(spec);
  if (absl::Status status = MakeDirectory(spec.state_directory, 0700); !status.ok()) return status;
  if (!spec.log_file.empty()) {
    auto file = LogFile::Open(spec.log_file, spec.log_file_bytes);
    if (!file.ok()) return file.status();
    parts->log.Bound(*std::move(file));
  }
  if (absl::Status status = MakeDirectory(spec.socket_directory, 0750); !status.ok()) return status;
  auto lock = TakeLock(spec.state_directory);
  if (!lock.ok()) return lock.status();
  parts->lock = *std::move(lock);
  if (spec.socket_directory != spec.state_directory) {
    auto socket_lock = TakeLock(spec.socket_directory);
    if (!socket_lock.ok()) return socket_lock.status();
    parts->socket_lock = *std::move(socket_lock);
  }
  if (absl::Status status = parts->StartStorage(); !status.ok()) return status;
  parts->StartJobs();
  if (absl::Status status = parts->StartServing(); !status.ok()) return status;
  parts->log.Info(absl::StrCat("keepstepd ", kVersion, " serves ", parts->address),
                  {{"http", parts->http == nullptr ? "off" : parts->http->address()},
                   {"gpu", parts->devices != nullptr ? "on" : "off"},
                   {"io_engine", parts->engine.name},
                   {"why", parts->engine.reason},
                   {"pool_limit", HumanBytes(parts->plane->pool().stats().limit_bytes)}});
  return std::unique_ptr<Daemon>(new Daemon(std::move(parts)));
}

Daemon::Daemon(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Daemon::~Daemon() = default;

const std::string& Daemon::address() const { return parts_->address; }

std::string Daemon::http_address() const { return parts_->http == nullptr ? "" : parts_->http->address(); }

Log& Daemon::log() { return parts_->log; }

bool Daemon::in_use() const {
  if (parts_->sessions.size() > 0 || parts_->attempts->open() > 0 || parts_->leases.in_use()) return true;
  if (parts_->rescue.kept() > 0 || parts_->kept.counts().worlds > 0) return true;
  for (const auto& job : parts_->jobs->All()) {
    const JobSnapshot logic = job->View().logic;
    if (logic.recovering || logic.claiming || !logic.saves.empty()) return true;
  }
  return false;
}

absl::Status Daemon::alive() const { return CheckAlive(parts_->state); }

void Daemon::Reconfigure(const DaemonSpec& spec) { parts_->Reconfigure(spec); }

int32_t Daemon::Drain(std::chrono::milliseconds limit) {
  return DrainAll(parts_->state, parts_->exit_requested ? std::chrono::milliseconds(0) : limit);
}

}  // namespace keepstep::daemon
