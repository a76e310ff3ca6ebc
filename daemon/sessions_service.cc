#include "daemon/sessions_service.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/device/device_table.h"
#include "daemon/error.h"
#include "daemon/reactors.h"
#include "daemon/save_request.h"
#include "daemon/read_box.h"
#include "daemon/rescue_grant.h"
#include "daemon/version.h"
#include "proto/convert.h"
#include "storage/attempt.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kMaxNameBytes = 255;

absl::Status Invalid(absl::string_view reason, absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, reason, message);
}

absl::StatusOr<Membership> MembershipFrom(const v1::OpenRequest& request, std::shared_ptr<Job> job) {
  auto mesh = proto::MeshFrom(request.mesh(), request.world_size());
  if (!mesh.ok()) {
    const bool size = request.world_size() < 1 || request.world_size() > proto::kMaxWorldSize;
    return Because(mesh.status(), size ? "WORLD_SIZE_LIMIT" : "BAD_MESH", "open");
  }
  if (request.rank() < 0 || request.rank() >= request.world_size()) {
    return Invalid("BAD_RANK", absl::StrCat("Rank ", request.rank(), " is not in a world of ",
                                            request.world_size(), "."));
  }
  if (request.run().size() > kMaxNameBytes)
    return Invalid("BAD_RUN", "The run's name is too long: at most 255 bytes.");
  if (request.epoch() < 0 || request.saves_issued() > proto::kMaxSaveNumber) {
    return Invalid("BAD_RESUME", absl::StrCat("Epoch ", request.epoch(), " and ", request.saves_issued(),
                                              " saves issued are nothing to resume from."));
  }
  if (request.mode() == v1::OpenRequest::READ && request.has_retention())
    return Invalid("BAD_RETENTION", "A reader keeps and deletes nothing: keep_last is for trainers.");
  if (request.mode() != v1::OpenRequest::TRAIN && request.mode() != v1::OpenRequest::READ)
    return Invalid("BAD_MODE", "A session trains (TRAIN) or reads (READ).");
  return Membership{.job = std::move(job),
                    .training = request.mode() == v1::OpenRequest::TRAIN,
                    .warm = request.mode() == v1::OpenRequest::TRAIN && request.warm(),
                    .rescue = request.mode() == v1::OpenRequest::TRAIN && !request.no_rescue(),
                    .rank = request.rank(),
                    .world_size = request.world_size(),
                    .mesh = *std::move(mesh),
                    .run = request.run()};
}

v1::SessionEvent OpenedEvent(const Job& job, int64_t epoch, std::vector<v1::SaveStatus> unsettled) {
  v1::SessionEvent event;
  auto* opened = event.mutable_opened();
  opened->set_epoch(epoch);
  opened->set_daemon_version(kVersion);
  opened->set_job(job.label());
  for (v1::SaveStatus& status : unsettled) *opened->add_unsettled() = std::move(status);
  return event;
}

}  // namespace

grpc::ServerWriteReactor<v1::SessionEvent>* SessionsService::Open(grpc::CallbackServerContext* context,
                                                                  const v1::OpenRequest* request) {
  auto stream = EventStream<v1::SessionEvent>::Make();
  auto session = RequireSession(state_, *context);
  if (!session.ok()) {
    stream->Close(session.status());
    return stream.get();
  }
  const bool submitted = state_.calls->TrySubmit([this, stream, session = *session, request = *request] {
    auto job = state_.jobs->Of(*session);
    auto member = job.ok() ? MembershipFrom(request, *job) : job.status();
    absl::Status status = member.status();
    if (status.ok() && member->training && request.nonce().size() != sizeof(Nonce)) {
      status = Invalid("BAD_NONCE", absl::StrCat("A nonce has 16 bytes, not ", request.nonce().size(), "."));
    }
    const bool training = status.ok() && member->training;
    if (training) status = RequireWritable(state_);
    if (training && status.ok()) status = state_.jobs->PrepareWriting(**job, *session);
    if (status.ok()) status = session->Join(*std::move(member));
    if (!status.ok()) {
      stream->Close(status);
      return;
    }
    session->AtEnd([stream](const absl::Status& why) { stream->Close(why); });
    if (!training) {
      stream->WhenGone([this, id = session->id()] {
        state_.end_session(id, absl::CancelledError("The reader has gone."));
      });
      stream->Push(OpenedEvent(**job, 0, {}));
      return;
    }
    SessionOpened opened{.session = session->id(),
                         .rank = request.rank(),
                         .world_size = request.world_size(),
                         .epoch = request.epoch(),
                         .saves_issued = request.saves_issued(),
                         .retention = {.keep_last = request.retention().keep_last(),
                                       .keep_every = request.retention().keep_every()}};
    std::copy(request.nonce().begin(), request.nonce().end(), opened.nonce.begin());
    stream->WhenGone([job = *job, id = session->id()] { job->SessionGone(id, false); });
    (*job)->Open(
        session, opened,
        [stream, job = *job](const AnswerOpen& answer, std::vector<v1::SaveStatus> unsettled) {
          if (answer.failure.code != absl::StatusCode::kOk) return stream->Close(FromFailure(answer.failure));
          stream->Push(OpenedEvent(*job, answer.epoch, std::move(unsettled)));
        },
        [stream](const Job::Membered& news) {
          v1::SessionEvent event;
          if (const auto* moved = std::get_if<MoveSession>(&news)) {
            event.mutable_epoch_moved()->set_epoch(moved->epoch);
            stream->Push(std::move(event));
            return;
          }
          const Failure& failure = std::get<CloseSession>(news).failure;
          *event.mutable_closed() = ToProto(failure);
          stream->Push(std::move(event));
          stream->Close(FromFailure(failure));
        });
  });
  if (!submitted) stream->Close(TooManyCalls());
  return stream.get();
}

grpc::ServerUnaryReactor* SessionsService::Register(grpc::CallbackServerContext* context,
                                                    const v1::RegisterRequest* request,
                                                    v1::RegisterResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request, response]() -> absl::Status {
    auto session = RequireMember(state_, *context);
    if (!session.ok()) return session.status();
    auto registration = (*session)->Register(*request);
    if (!registration.ok()) return registration.status();
    response->set_generation(request->generation());
    if (*registration == nullptr) return absl::OkStatus();
    response->set_fingerprint((*registration)->fingerprint);
    response->set_registered_bytes((*registration)->total_bytes);
    const int64_t limit = state_.plane->pool().stats().limit_bytes;
    if ((*registration)->total_bytes > limit) {
      response->add_warnings(
          absl::StrCat("The staging pool (", HumanBytes(limit), ") is smaller than this rank's state (",
                       HumanBytes((*registration)->total_bytes),
                       "): updates wait for the storage until the rest is copied. Raise --pool-bytes."));
    }
    const auto member = (*session)->membership();
    if (member->training && member->rescue && (*session)->flight_record() >= 0) {
      const ClientSession::RescueGrant grant = GrantRescue(**session, **registration, *state_.rescue, state_.devices);
      response->set_rescues(grant.granted);
      response->set_no_rescue(grant.why_not);
      if (!grant.granted) {
        state_.log->Warn("no crash flush", {{"job", member->job->label()},
                                            {"rank", absl::StrCat(member->rank)},
                                            {"why", grant.why_not}});
      }
    }
    // A warm restart asks for what the record proves when it has come to it.
    if (member->warm && (*session)->flight_record() >= 0) response->set_rescues(true);
    if ((*registration)->devices != nullptr) {
      state_.log->Info("GPU memory mapped", {{"job", member->job->label()},
                                             {"rank", absl::StrCat(member->rank)},
                                             {"memory", (*registration)->devices->Text()}});
    }
    if (member->training) {
      ReservePool();
      member->job->Registered((*session)->id(), (*registration)->generation, (*registration)->fingerprint);
    }
    return absl::OkStatus();
  });
}

// Memory for one save of everything registered, where it is wanted, before the first save needs it.
void SessionsService::ReservePool() {
  state_.calls->TrySubmit([this, registered = state_.sessions->registered()] {
    const absl::Status status = state_.plane->pool().Reserve(registered.total_bytes, registered.near_bytes);
    if (!status.ok())
      state_.log->Warn("staging memory not reserved", {{"error", std::string(status.message())}});
  });
}

grpc::ServerUnaryReactor* SessionsService::Save(grpc::CallbackServerContext* context,
                                                const v1::SaveRequest* request, v1::SaveResponse* response) {
  auto unary = EventUnary::Make();
  auto session = RequireMember(state_, *context);
  absl::Status status = session.status();
  if (session.ok()) {
    status = StartSave(**session, *request, [unary, response](absl::StatusOr<v1::SaveResponse> answer) {
      unary->End(answer.status(), [&] {
        if (answer.ok()) *response = *std::move(answer);
      });
    });
  }
  if (!status.ok()) unary->End(status);
  return unary.get();
}

absl::Status SessionsService::StartSave(ClientSession& session, const v1::SaveRequest& request,
                                        std::function<void(absl::StatusOr<v1::SaveResponse>)> done) {
  if (absl::Status status = CheckSave(request); !status.ok()) return status;
  const std::optional<Membership> member = session.membership();
  if (!member.has_value() || !member->training) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "READ_ONLY", "A reader cannot save.", "accept");
  }
  auto registration = session.RegistrationOf(request.generation());
  if (!registration.ok()) return registration.status();
  member->job->Save(session.id(), ArgsFrom(request, *member, *std::move(registration)), std::move(done));
  return absl::OkStatus();
}

void SessionsService::SaveAsked(const std::shared_ptr<ClientSession>& session, absl::string_view request) {
  v1::SaveRequest parsed;
  if (!parsed.ParseFromArray(request.data(), static_cast<int>(request.size())))
    return;  // no number to answer
  absl::Status status = absl::ResourceExhaustedError("asks");
  if (session->AskCame()) {
    status = StartSave(*session, parsed,
                       [session, number = parsed.number()](const absl::StatusOr<v1::SaveResponse>& answer) {
                         session->AskAnswered();  // the page told before this
                         if (!answer.ok()) session->pages().RefuseAsk(number);
                       });
    if (!status.ok()) session->AskAnswered();
  }
  if (!status.ok()) session->pages().RefuseAsk(parsed.number());
}

grpc::ServerUnaryReactor* SessionsService::Wait(grpc::CallbackServerContext* context,
                                                const v1::WaitRequest* request, v1::SaveStatus* response) {
  auto unary = EventUnary::Make();
  auto session = RequireMember(state_, *context);
  absl::Status status = session.status();
  if (status.ok() && (request->state() < v1::SNAPSHOTTED || request->state() > v1::COMMITTED)) {
    status = Invalid("BAD_STATE", "Wait for SNAPSHOTTED, PERSISTED or COMMITTED.");
  }
  if (!status.ok()) {
    unary->End(status);
    return unary.get();
  }
  auto job = (*session)->membership()->job;
  job->Wait(
      (*session)->id(), request->number(), request->step(), static_cast<SaveState>(request->state()),
      [unary, job](uint64_t ticket) { unary->WhenCancelled([job, ticket] { job->StopWaiting(ticket); }); },
      [unary, response](const absl::StatusOr<v1::SaveStatus>& reached) {
        unary->End(reached.status(), [&] {
          if (reached.ok()) *response = *reached;
        });
      });
  return unary.get();
}

grpc::ServerWriteReactor<v1::SaveStatus>* SessionsService::Watch(grpc::CallbackServerContext* context,
                                                                 const v1::WatchRequest* request) {
  auto stream = EventStream<v1::SaveStatus>::Make();
  auto session = RequireMember(state_, *context);
  if (!session.ok()) {
    stream->Close(session.status());
    return stream.get();
  }
  auto job = (*session)->membership()->job;
  job->Watch(
      (*session)->id(), [stream](const v1::SaveStatus& status) { stream->Push(status); },
      [stream, job](uint64_t ticket) { stream->WhenGone([job, ticket] { job->StopWatching(ticket); }); });
  return stream.get();
}

grpc::ServerUnaryReactor* SessionsService::GetExtra(grpc::CallbackServerContext* context,
                                                    const v1::GetExtraRequest* request,
                                                    v1::GetExtraResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request, response]() -> absl::Status {
    auto session = RequireSession(state_, *context);
    if (!session.ok()) return session.status();
    auto job = state_.jobs->Of(**session);
    if (!job.ok()) return job.status();
    const auto warm = (*session)->warm_extras();
    if (warm != nullptr && !request->latest() && request->step() == warm->step) {
      response->set_step(warm->step);
      for (const v1::Extra& extra : warm->extras) {
        if (!request->name().empty() && extra.name() != request->name()) continue;
        if (request->rank() < 0 || extra.rank() == request->rank()) *response->add_extras() = extra;
      }
      return absl::OkStatus();
    }
    auto found = state_.checkpoints->Find(**job, request->latest(), request->step());
    if (!found.ok()) return found.status();
    response->set_step(found->decision.step());
    for (const StoredExtra& extra : found->source.from->extras()) {
      if (!request->name().empty() && extra.name != request->name()) continue;
      if (request->rank() >= 0 && extra.rank != request->rank()) continue;
      auto items = ReadExtra(found->source, extra);
      if (!items.ok()) return items.status();
      v1::Extra* out = response->add_extras();
      out->set_name(extra.name);
      out->set_rank(extra.rank);
      out->set_splittable(extra.splittable);
      out->mutable_coordinate()->Add(extra.coordinate.begin(), extra.coordinate.end());
      for (std::string& item : *items) out->add_items(std::move(item));
    }
    return absl::OkStatus();
  });
}

}  // namespace keepstep::daemon
