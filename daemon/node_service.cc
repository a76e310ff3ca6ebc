#include "daemon/node_service.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <random>
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
namespace {

v1::CollectResponse ToProto(const AnswerCollect& answer, bool dry_run) {
  v1::CollectResponse response;
  int64_t would_free_bytes = 0;
  for (const RetentionDecision& decision : answer.decisions) {
    v1::CollectDecision* out = response.add_decisions();
    out->set_step(decision.step);
    out->set_attempt(decision.attempt);
    out->set_keep(decision.keep);
    out->set_reason(decision.reason);
    out->set_bytes(decision.bytes);
    if (!decision.keep) would_free_bytes += decision.bytes;
  }
  response.set_freed_bytes(dry_run ? would_free_bytes : answer.freed_bytes);
  response.mutable_retention()->set_keep_last(answer.policy.keep_last);
  response.mutable_retention()->set_keep_every(answer.policy.keep_every);
  return response;
}

constexpr std::chrono::hours kLongestDrain(1);

}  // namespace

int32_t DrainAll(ServerState& state, std::chrono::milliseconds limit) {
  if (!state.draining.exchange(true)) state.drain_begins();
  struct Sum {
    std::atomic<size_t> left{0};
    std::atomic<int32_t> undecided{0};
    std::promise<void> all;
  };
  const auto jobs = state.jobs->All();
  if (jobs.empty()) return 0;
  auto sum = std::make_shared<Sum>();
  sum->left = jobs.size();
  for (const auto& job : jobs) {
    job->Drain([sum](int32_t undecided) {
      sum->undecided += undecided;
      if (--sum->left == 0) sum->all.set_value();
    });
  }
  if (sum->all.get_future().wait_for(limit) == std::future_status::ready) return sum->undecided;
  int32_t undecided = 0;
  for (const auto& job : jobs) undecided += static_cast<int32_t>(job->View().saves.size());
  return undecided;
}

absl::StatusOr<std::vector<std::shared_ptr<Job>>> NodeService::Chosen(const std::string& name,
                                                                      const ClientSession* session) {
  if (name.empty() && (session == nullptr || session->directory_fd() < 0))
    return state_.jobs->VisibleTo(session);
  auto job = state_.jobs->Find(name, session);
  if (!job.ok()) return job.status();
  return std::vector<std::shared_ptr<Job>>{*std::move(job)};
}

absl::Status NodeService::FillStatus(const std::string& job_name, const ClientSession* session,
                                     v1::StatusResponse& response) {
  auto jobs = Chosen(job_name, session);
  if (!jobs.ok()) return jobs.status();
  response.set_version(kVersion);
  response.set_pid(getpid());
  response.set_uptime_seconds(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - state_.started).count());
  const auto stats = state_.plane->pool().stats();
  const auto cached = state_.plane->cache().stats();
  response.set_pool_capacity_bytes(stats.capacity_bytes);
  response.set_pool_used_bytes(stats.used_bytes);
  response.set_pool_cached_bytes(cached.idle_chunks * state_.plane->pool().buffer_bytes());
  response.set_pool_limit_bytes(stats.limit_bytes);
  response.set_io_engine(state_.io_engine);
  response.set_draining(state_.draining);
  response.set_sessions(static_cast<int32_t>(state_.sessions->size()));
  for (const auto& job : *jobs) FillJob(Observe(*job), *response.add_jobs());
  const bool of_one = !job_name.empty() || (session != nullptr && session->directory_fd() >= 0);
  if (of_one || !IsOperator(session)) return absl::OkStatus();
  for (const std::string& directory : state_.jobs->Detached())
    FillJob(DetachedFacts(directory), *response.add_jobs());
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* NodeService::Status(grpc::CallbackServerContext* context,
                                              const v1::StatusRequest* request,
                                              v1::StatusResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request, response]() -> absl::Status {
    auto session = OptionalSession(state_, *context);
    return session.ok() ? FillStatus(request->job(), session->get(), *response) : session.status();
  });
}

grpc::ServerUnaryReactor* NodeService::Doctor(grpc::CallbackServerContext* context,
                                              const v1::DoctorRequest* request,
                                              v1::DoctorResponse* response) {
  return RunUnary(context, state_.calls, [this, context, response]() -> absl::Status {
    auto session = OptionalSession(state_, *context);
    if (!session.ok()) return session.status();
    *response = Examine(state_, session->get());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* NodeService::Reindex(grpc::CallbackServerContext* context,
                                               const v1::ReindexRequest* request,
                                               v1::ReindexResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request, response]() -> absl::Status {
    auto session = OptionalSession(state_, *context);
    if (!session.ok()) return session.status();
    if (absl::Status status = RequireWritable(state_); !status.ok()) return status;
    const auto started = std::chrono::steady_clock::now();
    auto jobs = Chosen(request->job(), session->get());
    if (!jobs.ok()) return jobs.status();
    for (const auto& job : *jobs) {
      auto counts = state_.catalog->Reindex(job->identity().path, *job->store());
      if (!counts.ok()) return counts.status();
      response->set_checkpoints(response->checkpoints() + counts->checkpoints);
      response->set_extents(response->extents() + counts->extents);
    }
    response->set_seconds(std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* NodeService::Collect(grpc::CallbackServerContext* context,
                                               const v1::CollectRequest* request,
                                               v1::CollectResponse* response) {
  auto unary = EventUnary::Make();
  auto session = OptionalSession(state_, *context);
  const absl::Status writable = request->dry_run() ? absl::OkStatus() : RequireWritable(state_);
  if (!writable.ok()) session = writable;
  auto job = session.ok() ? state_.jobs->Find(request->job(), session->get()) : session.status();
  if (!job.ok()) {
    unary->End(job.status());
    return unary.get();
  }
  CollectRequested collect{.dry_run = request->dry_run(), .take_over = request->take_over()};
  if (request->has_retention())
    collect.policy = {.keep_last = request->retention().keep_last(),
                      .keep_every = request->retention().keep_every()};
  std::random_device random;
  for (uint8_t& byte : collect.nonce) byte = static_cast<uint8_t>(random());
  (*job)->Collect(collect, [unary, response, dry_run = request->dry_run()](const AnswerCollect& answer) {
    unary->End(FromFailure(answer.failure), [&] { *response = ToProto(answer, dry_run); });
  });
  return unary.get();
}

grpc::ServerUnaryReactor* NodeService::RequestSave(grpc::CallbackServerContext* context,
                                                   const v1::RequestSaveRequest* request,
                                                   v1::RequestSaveResponse* response) {
  auto unary = EventUnary::Make();
  auto session = OptionalSession(state_, *context);
  const absl::Status writable = RequireWritable(state_);
  auto job = !session.ok()    ? session.status()
             : !writable.ok() ? writable
                              : state_.jobs->Find(request->job(), session->get());
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
  return RunUnary(context, state_.calls, [this, context, request, response]() -> absl::Status {
    auto session = RequireSession(state_, *context);
    if (!session.ok()) return session.status();
    if (!IsOperator(session->get())) {
      return MakeError(absl::StatusCode::kPermissionDenied, "NOT_OPERATOR",
                       "Only root and the daemon's own user may drain it.");
    }
    state_.log->Info("draining on request", {{"limit_seconds", absl::StrCat(request->limit_seconds())},
                                             {"exit", request->exit() ? "yes" : "no"},
                                             {"uid", absl::StrCat((*session)->peer().uid)}});
    // NaN and what is beyond all measure is the longest that a drain takes anyway (Limits::drain_ms).
    const double longest = std::chrono::duration<double>(kLongestDrain).count();
    const double given = request->limit_seconds();
    const double seconds = given > 0 && given < longest ? given : longest;
    response->set_undecided(
        DrainAll(state_, std::chrono::milliseconds(static_cast<int64_t>(1000 * seconds))));
    if (request->exit()) state_.end_process();
    return absl::OkStatus();
  });
}

}  // namespace keepstep::daemon
