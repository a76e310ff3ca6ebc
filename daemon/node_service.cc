#include "daemon/node_service.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/doctor.h"
#include "daemon/error.h"
#include "daemon/job_facts.h"
#include "daemon/node_view.h"
#include "daemon/reactors.h"
#include "daemon/version.h"

namespace keepstep::daemon {

void DrainAll(ServerState& state, std::function<void(int32_t)> done) {
  if (!state.draining.exchange(true)) state.drain_begins();
  struct Sum {
    std::atomic<size_t> left{0};
    std::atomic<int32_t> undecided{0};
  };
  const auto jobs = state.jobs->All();
  if (jobs.empty()) return done(0);
  auto sum = std::make_shared<Sum>();
  sum->left = jobs.size();
  for (const auto& job : jobs) {
    job->Drain([sum, done](int32_t undecided) {
      sum->undecided += undecided;
      if (--sum->left == 0) done(sum->undecided);
    });
  }
}

grpc::ServerUnaryReactor* NodeService::Status(grpc::CallbackServerContext* context,
                                              const v1::StatusRequest* request,
                                              v1::StatusResponse* response) {
  return RunUnary(context, state_.calls, [this, context, response]() -> absl::Status {
    auto session = OptionalSession(state_, *context);
    if (!session.ok()) return session.status();
    response->set_version(kVersion);
    response->set_pid(getpid());
    response->set_uptime_seconds(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - state_.started).count());
    const auto stats = state_.plane->pool().stats();
    const auto cached = state_.plane->cache().stats();
    response->set_pool_capacity_bytes(stats.capacity_bytes);
    response->set_pool_used_bytes(stats.used_bytes);
    response->set_pool_cached_bytes(cached.idle_chunks * state_.plane->pool().buffer_bytes());
    response->set_pool_limit_bytes(stats.limit_bytes);
    response->set_io_engine(state_.io_engine);
    response->set_draining(state_.draining);
    response->set_sessions(static_cast<int32_t>(state_.sessions->size()));
    for (const auto& job : state_.jobs->VisibleTo(session->get())) {
      FillJob(Observe(*job), *response->add_jobs());
    }
    for (const std::string& directory :
         IsOperator(session->get()) ? state_.jobs->Detached() : std::vector<std::string>()) {
      FillJob(DetachedFacts(directory), *response->add_jobs());
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* NodeService::Doctor(grpc::CallbackServerContext* context,
                                              const v1::DoctorRequest* request,
                                              v1::DoctorResponse* response) {
  return RunUnary(context, state_.calls, [this, response] {
    *response = Examine(state_);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* NodeService::Reindex(grpc::CallbackServerContext* context,
                                               const v1::ReindexRequest* request,
                                               v1::ReindexResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request, response]() -> absl::Status {
    auto session = OptionalSession(state_, *context);
    if (!session.ok()) return session.status();
    const auto started = std::chrono::steady_clock::now();
    std::vector<std::shared_ptr<Job>> jobs;
    if (request->job().empty()) {
      jobs = state_.jobs->VisibleTo(session->get());
    } else {
      auto job = state_.jobs->Find(request->job(), session->get());
      if (!job.ok()) return job.status();
      jobs.push_back(*std::move(job));
    }
    for (const auto& job : jobs) {
      auto counts = state_.catalog->Reindex(job->identity().path, *job->store());
      if (!counts.ok()) return counts.status();
      response->set_checkpoints(response->checkpoints() + counts->checkpoints);
      response->set_extents(response->extents() + counts->extents);
    }
    response->set_seconds(std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* NodeService::RequestSave(grpc::CallbackServerContext* context,
                                                   const v1::RequestSaveRequest* request,
                                                   v1::RequestSaveResponse* response) {
  auto unary = EventUnary::Make();
  auto session = OptionalSession(state_, *context);
  auto job = session.ok() ? state_.jobs->Find(request->job(), session->get()) : session.status();
  if (!job.ok()) {
    unary->End(job.status());
    return unary.get();
  }
  (*job)->WishSave([unary, response](absl::StatusOr<int64_t> step) {
    unary->End(step.status(), [&] { response->set_save_at(step.value_or(-1)); });
  });
  return unary.get();
}

grpc::ServerUnaryReactor* NodeService::Drain(grpc::CallbackServerContext* context,
                                             const v1::DrainRequest* request, v1::DrainResponse* response) {
  auto unary = EventUnary::Make();
  auto session = RequireSession(state_, *context);
  absl::Status status = session.status();
  if (status.ok() && !IsOperator(session->get())) {
    status = MakeError(absl::StatusCode::kPermissionDenied, "NOT_OPERATOR",
                       "Only root and the daemon's own user may drain it.");
  }
  if (!status.ok()) {
    unary->End(status);
    return unary.get();
  }
  state_.log->Info("draining on request");
  DrainAll(state_, [unary, response](int32_t undecided) {
    unary->End(absl::OkStatus(), [&] { response->set_undecided(undecided); });
  });
  return unary.get();
}

}  // namespace keepstep::daemon
