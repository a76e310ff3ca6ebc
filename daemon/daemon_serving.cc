// What a daemon listens on: gRPC, the handoff socket, HTTP; and how many it lets in.

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/daemon_parts.h"
#include "proto/handoff.h"

namespace keepstep::daemon {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;
constexpr size_t kMessageMemoryBytes = 256 << 20;  // of all messages that arrive; gRPC makes the others wait
constexpr int kCallsOfAConnection = 128;
constexpr int kIdleConnectionMs = 300'000;
constexpr int kConnectionsOfASession = 2, kOtherConnections = 64;
// Of a session: its socket, its process, the directory, the pages, the window, the flight record; and its connections.
constexpr int kDescriptorsOfASession = 8 + kConnectionsOfASession;
constexpr int kOtherDescriptors = 256;  // stores, catalog, log, connections without a session

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

}  // namespace

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
      &plane->pool(), [this] { return sessions.registered().total_bytes; },
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

}  // namespace keepstep::daemon
