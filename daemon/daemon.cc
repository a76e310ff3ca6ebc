#include "daemon/daemon.h"

#include <fcntl.h>
#include <grpcpp/health_check_service_interface.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/daemon_parts.h"
#include "daemon/error.h"
#include "daemon/health.h"
#include "daemon/log_file.h"
#include "daemon/prefer_node.h"
#include "daemon/version.h"
#include "daemon/viewer.h"
#include "proto/handoff.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kMaxTasks = 4096;  // that calls from outside may let wait, of each kind
// What calls under way get at shutdown. An idle client acknowledges the end only at its next poll, up to 5 s
// later.
constexpr std::chrono::seconds kCallsLimit(1);

absl::Status Errno(absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(what, ": ", strerror(errno)));
}

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

// Places staging memory, and says once where the kernel refuses it.
StagingPool::Place PlaceNearGpus(Log* log) {
  auto said = std::make_shared<std::atomic<bool>>(false);
  return [log, said = std::move(said)](absl::Span<std::byte> range, int node) {
    const absl::Status placed = PreferNode(range, node);
    if (placed.ok() || said->exchange(true)) return;
    log->Warn("staging memory is not placed near its GPU", {{"error", std::string(placed.message())}});
  };
}

// The kernel module's control device: also in containers that were given a GPU.
bool HasGpuDriver() { return access("/dev/nvidiactl", F_OK) == 0; }

}  // namespace

absl::Status Daemon::Parts::StartStorage() {
  auto made = storage::MakeIoEngine(spec.io);
  if (!made.ok()) return made.status();
  engine = *std::move(made);
  DataPlaneSpec plane_spec;
  const bool gpu = !spec.read_only && (spec.gpu == GpuUse::kOn || (spec.gpu == GpuUse::kAuto && HasGpuDriver()));
  plane_spec.pool.limit_bytes = spec.pool_bytes;
  plane_spec.pool.shared = gpu;
  if (gpu) plane_spec.pool.place = PlaceNearGpus(&log);
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
