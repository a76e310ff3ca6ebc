// Sessions.Allocate, Restart and Free: GPU memory that the daemon owns (docs/gpu.md, "Warm restart").

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/device/declared_memory.h"
#include "daemon/device/owned_memory.h"
#include "daemon/error.h"
#include "daemon/reactors.h"
#include "daemon/sessions_service.h"
#include "daemon/warm_restart.h"
#include "storage/attempt.h"

namespace keepstep::daemon {

// What is kept makes nobody's allocation fail.
absl::StatusOr<LentPiece> SessionsService::NewPiece(const Membership& member, const PieceName& name,
                                                    int64_t size_bytes) {
  if (member.warm) {
    auto kept = state_.kept->HandOn(member.job->identity().path, member.rank, member.world_size, name, size_bytes);
    if (kept.has_value()) return *std::move(kept);
  }
  while (true) {
    auto piece = state_.owned->Allocate(name.gpu, size_bytes);
    if (piece.ok()) return LentPiece{*std::move(piece)};
    const std::string reason = ReasonOf(piece.status());
    if ((reason != "GPU_POOL_FULL" && reason != "DEVICE_ERROR") || !state_.kept->DropOldest()) return piece.status();
  }
}

grpc::ServerUnaryReactor* SessionsService::Allocate(grpc::CallbackServerContext* context,
                                                    const v1::AllocateRequest* request,
                                                    v1::AllocateResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request, response]() -> absl::Status {
    auto session = RequireMember(state_, *context);
    if (!session.ok()) return session.status();
    auto gpu = GpuFrom(request->gpu());
    if (!gpu.ok()) return gpu.status();
    if (state_.owned == nullptr) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "GPU_OFF",
                       "This daemon has nothing to do with GPU memory: start it with gpu: on, or allocate with CUDA.",
                       "allocate");
    }
    const PieceName name{*gpu, request->ordinal()};
    auto lent = (*session)->pieces().Allocate(name, request->size_bytes(), [&] {
      return NewPiece(*(*session)->membership(), name, request->size_bytes());
    });
    if (!lent.ok()) return lent.status();
    response->set_size_bytes(lent->piece->size_bytes());
    response->set_kept(lent->kept_of != 0);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* SessionsService::Free(grpc::CallbackServerContext* context, const v1::FreeRequest* request,
                                                v1::FreeResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request]() -> absl::Status {
    auto session = RequireMember(state_, *context);
    if (!session.ok()) return session.status();
    auto gpu = GpuFrom(request->gpu());
    if (!gpu.ok()) return gpu.status();
    return (*session)->pieces().Free({*gpu, request->ordinal()});
  });
}

// As a load, "latest" is resolved first: what that waits for (ranks, a claim, a rescue), this waits for.
grpc::ServerUnaryReactor* SessionsService::Restart(grpc::CallbackServerContext* context,
                                                   const v1::RestartRequest* request, v1::RestartResponse* response) {
  auto unary = EventUnary::Make();
  auto session = RequireMember(state_, *context);
  auto registration = session.ok() ? (*session)->RegistrationOf(request->generation()) : session.status();
  absl::Status status = registration.status();
  const auto member = session.ok() ? (*session)->membership() : std::nullopt;
  if (session.ok() && !member->warm) {
    status = MakeError(absl::StatusCode::kFailedPrecondition, "NOT_WARM",
                       "Only a trainer that was opened with warm goes on with kept memory.", "load");
  }
  if (!status.ok()) {
    unary->End(status);
    return unary.get();
  }
  member->job->ResolveLoad(
      (*session)->id(), /*latest=*/true, 0,
      [this, unary, session = *session, registration = *registration, response](const AnswerLoad& found) {
        if (found.failure.code != absl::StatusCode::kOk) return unary->End(FromFailure(found.failure));
        const auto ask = [this, unary, session, registration, found, response] {
          AskWarm(unary, session, registration, found, response);
        };
        if (!state_.loads->TrySubmit(ask)) unary->End(TooManyCalls());
      });
  return unary.get();
}

void SessionsService::AskWarm(const std::shared_ptr<EventUnary>& unary, const std::shared_ptr<ClientSession>& session,
                              std::shared_ptr<const Registration> registration, const AnswerLoad& found,
                              v1::RestartResponse* response) {
  const Membership member = *session->membership();
  const std::string job = member.job->identity().path;
  WarmAsk ask{.epoch = found.epoch,
              .rank = member.rank,
              .world_size = member.world_size,
              .registration = registration,
              .pieces = session->pieces().All(),
              .committed = found.found,
              .committed_step = found.step};
  if (const auto attempt = storage::ParseAttempt(found.attempt); attempt.has_value()) ask.committed_epoch = attempt->epoch;
  const auto answered = [this, unary, session, registration, response, epoch = found.epoch](const WarmAnswer& answer) {
    // Not on the thread of whoever made the decision.
    const auto go_on = [this, unary, session, registration, response, epoch, answer] {
      v1::RestartResponse made;
      made.set_epoch(epoch);
      const absl::Status status = GoOn(*session, registration, answer, &made);
      unary->End(status, [&] { *response = std::move(made); });
    };
    if (!state_.loads->TrySubmit(go_on)) unary->End(TooManyCalls());
  };
  state_.kept->Ask(job, std::move(ask), answered);
  unary->WhenCancelled([kept = state_.kept, job, epoch = found.epoch, rank = member.rank] {
    kept->Decline(job, epoch, absl::StrCat("rank ", rank, " gave up"));
  });
}

absl::Status SessionsService::GoOn(ClientSession& session, std::shared_ptr<const Registration> registration,
                                   const WarmAnswer& answer, v1::RestartResponse* response) {
  const Membership member = *session.membership();
  Log& log = *state_.log;
  const std::string rank = absl::StrCat(member.rank);
  if (answer.world == nullptr) {
    log.Info("no warm restart", {{"job", member.job->label()}, {"rank", rank}, {"why", answer.why_cold}});
    response->set_why_cold(answer.why_cold);
    return absl::OkStatus();
  }
  auto extras = ExtrasOf(*answer.world, member);
  if (!extras.ok()) return extras.status();
  Cancellation cancel;
  auto filled = FillHostMemory(answer.world->ranks[member.rank], *registration, *session.port(registration), cancel);
  if (!filled.ok()) return filled.status();
  session.SetWarmExtras(*std::move(extras));
  log.Info("warm restart", {{"job", member.job->label()}, {"rank", rank}, {"step", absl::StrCat(answer.world->step)}});
  response->set_warm(true);
  response->set_step(answer.world->step);
  response->set_host_bytes(*filled);
  return absl::OkStatus();
}

}  // namespace keepstep::daemon
