#include "daemon/checkpoints_service.h"

#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/attempt_writer.h"
#include "daemon/error.h"
#include "daemon/query_tensors.h"
#include "daemon/reactors.h"
#include "daemon/read_box.h"
#include "daemon/verify.h"
#include "proto/convert.h"
#include "storage/attempt.h"
#include "storage/checkpoint_reader.h"
#include "storage/delete.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kPieceBytes = 1 << 20;
constexpr size_t kMaxPinBytes = 128, kMaxPinTextBytes = 4096;

v1::Marker MarkerOf(const std::string& text) {
  v1::Marker marker;
  marker.set_time_unix_ms(std::chrono::duration_cast<std::chrono::milliseconds>(
                              std::chrono::system_clock::now().time_since_epoch())
                              .count());
  marker.set_text(text);
  return marker;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Job>> CheckpointsService::JobOf(const grpc::CallbackServerContext& context,
                                                               const std::string& name) {
  auto session = OptionalSession(state_, context);
  if (!session.ok()) return session.status();
  return state_.jobs->Find(name, session->get());
}

absl::StatusOr<std::shared_ptr<Job>> CheckpointsService::JobOfAttempt(
    const grpc::CallbackServerContext& context, const std::string& attempt) {
  auto job = state_.attempts->JobOf(attempt);
  if (!job.ok()) return job.status();
  return JobOf(context, (*job)->identity().path);
}

absl::StatusOr<FoundCheckpoint> CheckpointsService::Find(const grpc::CallbackServerContext& context,
                                                         const v1::CheckpointName& name) {
  auto job = JobOf(context, name.job());
  if (!job.ok()) return job.status();
  return state_.checkpoints->Find(**job, name.latest(), name.step());
}

absl::Status CheckpointsService::FillInfo(const Job& job, const v1::Decision& decision,
                                          v1::CheckpointInfo& info) {
  info.set_job(job.label());
  *info.mutable_decision() = decision;
  info.set_stored_bytes(decision.tensor_bytes());
  auto pins = storage::ListPins(*job.store(), decision.step());
  if (!pins.ok()) return pins.status();
  info.set_pinned(!pins->empty());
  *info.mutable_pinned_by() = {pins->begin(), pins->end()};
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* CheckpointsService::List(grpc::CallbackServerContext* context,
                                                   const v1::ListRequest* request,
                                                   v1::ListResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request, response]() -> absl::Status {
    auto session = OptionalSession(state_, *context);
    if (!session.ok()) return session.status();
    std::vector<std::shared_ptr<Job>> jobs;
    if (!request->job().empty() || (*session != nullptr && (*session)->directory_fd() >= 0)) {
      auto job = state_.jobs->Find(request->job(), session->get());
      if (!job.ok()) return job.status();
      jobs.push_back(*std::move(job));
    } else {
      jobs = state_.jobs->VisibleTo(session->get());
    }
    for (const auto& job : jobs) {
      v1::JobInfo* info = response->add_jobs();
      info->set_job(job->label());
      info->set_directory(job->identity().path);
      info->set_epoch(job->View().logic.epoch);
      auto list = storage::ListCheckpoints(*job->store());
      if (!list.ok()) return list.status();
      for (const v1::Decision& decision : list->committed) {
        absl::Status status = FillInfo(*job, decision, *info->add_checkpoints());
        if (!status.ok()) return status;
        if (info->epoch() < decision.epoch()) info->set_epoch(decision.epoch());
      }
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CheckpointsService::Get(grpc::CallbackServerContext* context,
                                                  const v1::GetRequest* request,
                                                  v1::CheckpointInfo* response) {
  return RunUnary(context, state_.calls, [this, context, request, response]() -> absl::Status {
    auto job = JobOf(*context, request->name().job());
    if (!job.ok()) return job.status();
    auto found = state_.checkpoints->Find(**job, request->name().latest(), request->name().step());
    if (!found.ok()) return found.status();
    absl::Status status = FillInfo(**job, found->decision, *response);
    int64_t bytes = 0;
    for (const StoredBlob& blob : found->source.from->blobs()) bytes += blob.size_bytes;
    response->set_stored_bytes(bytes);
    return status;
  });
}

grpc::ServerUnaryReactor* CheckpointsService::QueryTensors(grpc::CallbackServerContext* context,
                                                           const v1::QueryTensorsRequest* request,
                                                           v1::QueryTensorsResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request, response]() -> absl::Status {
    auto found = Find(*context, request->name());
    if (!found.ok()) return found.status();
    response->set_step(found->decision.step());
    return daemon::QueryTensors(*found->source.from, *request, *response);
  });
}

grpc::ServerWriteReactor<v1::ReadChunk>* CheckpointsService::Read(grpc::CallbackServerContext* context,
                                                                  const v1::ReadRequest* request) {
  auto stream = BlockingStream<v1::ReadChunk>::Make(context);
  stream->Start(state_.streams, [this, context, request](BlockingStream<v1::ReadChunk>& to) -> absl::Status {
    auto found = Find(*context, request->name());
    if (!found.ok()) return found.status();
    const reshard::StoredTensor* stored = found->source.from->Find(request->fqn());
    if (stored == nullptr) {
      return MakeError(
          absl::StatusCode::kNotFound, "MISSING_TENSORS",
          absl::StrCat("No tensor '", request->fqn(), "' in step ", found->decision.step(), "."));
    }
    reshard::Box box = reshard::WholeBox(stored->meta.shape);
    if (request->has_box()) {
      auto given = proto::BoxFrom(request->box());
      if (!given.ok()) return Because(given.status(), "BAD_BOX", "read");
      box = *std::move(given);
    }
    if (absl::Status status = reshard::ValidateBox(box, stored->meta.shape); !status.ok())
      return MakeError(absl::StatusCode::kOutOfRange, "PAST_THE_END", status.message(), "read");
    v1::ReadChunk chunk;
    *chunk.mutable_meta() = proto::ToProto(stored->meta);
    *chunk.mutable_box() = proto::ToProto(box);
    if (absl::Status status = to.Write(chunk); !status.ok()) return status;
    auto sink = [&](absl::string_view bytes) {
      v1::ReadChunk piece;
      piece.set_data(bytes.data(), bytes.size());
      return to.Write(piece);
    };
    return ReadBox(*state_.plane, found->source, request->fqn(), box, kPieceBytes, sink, *to.cancellation());
  });
  return stream.get();
}

// ---- writing without a trainer
// --------------------------------------------------------------------------------------

grpc::ServerUnaryReactor* CheckpointsService::Begin(grpc::CallbackServerContext* context,
                                                    const v1::BeginRequest* request,
                                                    v1::BeginResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request, response]() -> absl::Status {
    if (absl::Status status = RequireWritable(state_); !status.ok()) return status;
    if (state_.draining) {
      return MakeError(absl::StatusCode::kUnavailable, "DRAINING",
                       "keepstepd is shutting down. Try again after its restart.");
    }
    auto session = OptionalSession(state_, *context);
    if (!session.ok()) return session.status();
    auto job = state_.jobs->FindOrMake(request->job(), session->get());
    if (!job.ok()) return job.status();
    auto begun = state_.attempts->Begin(*std::move(job), *request);
    if (!begun.ok()) return begun.status();
    *response = *std::move(begun);
    return absl::OkStatus();
  });
}

grpc::ServerReadReactor<v1::WriteChunk>* CheckpointsService::Write(grpc::CallbackServerContext* context,
                                                                   v1::WriteResponse* response) {
  auto take = [this, context, response, attempt = std::string()](const v1::WriteChunk& chunk) mutable {
    if (attempt.empty()) {
      if (absl::Status status = RequireWritable(state_); !status.ok()) return status;
      if (auto job = JobOfAttempt(*context, chunk.attempt()); !job.ok()) return job.status();
      attempt = chunk.attempt();
    }
    const absl::Status status = state_.attempts->Write(attempt, chunk);
    if (status.ok())
      response->set_received_bytes(response->received_bytes() + static_cast<int64_t>(chunk.data().size()));
    return status;
  };
  return new MessageReader<v1::WriteChunk>(state_.streams, std::move(take));
}

grpc::ServerUnaryReactor* CheckpointsService::Commit(grpc::CallbackServerContext* context,
                                                     const v1::CommitRequest* request,
                                                     v1::CheckpointInfo* response) {
  return RunUnary(context, state_.streams, [this, context, request, response]() -> absl::Status {
    if (absl::Status status = RequireWritable(state_); !status.ok()) return status;
    auto job = JobOfAttempt(*context, request->attempt());
    if (!job.ok()) return job.status();
    auto decision = state_.attempts->Commit(request->attempt());
    if (!decision.ok()) return decision.status();
    return FillInfo(**job, *decision, *response);
  });
}

grpc::ServerUnaryReactor* CheckpointsService::Abort(grpc::CallbackServerContext* context,
                                                    const v1::AbortRequest* request,
                                                    v1::AbortResponse* response) {
  return RunUnary(context, state_.streams, [this, context, request]() -> absl::Status {
    if (absl::Status status = RequireWritable(state_); !status.ok()) return status;
    auto job = JobOfAttempt(*context, request->attempt());
    return job.ok() ? state_.attempts->Abort(request->attempt()) : job.status();
  });
}

// ---- keeping
// --------------------------------------------------------------------------------------------------------

absl::Status CheckpointsService::VerifyOne(const grpc::CallbackServerContext& context,
                                           const v1::VerifyRequest& request,
                                           const std::function<absl::Status(const v1::VerifyEvent&)>& tell,
                                           Cancellation& cancel) {
  auto found = Find(context, request.name());
  if (!found.ok()) return found.status();
  auto last = std::chrono::steady_clock::now() - std::chrono::seconds(1);
  VerifyCallbacks callbacks;
  callbacks.progress = [&](const VerifyProgress& progress) {
    if (std::chrono::steady_clock::now() - last < std::chrono::milliseconds(200)) return;
    last = std::chrono::steady_clock::now();
    v1::VerifyEvent event;
    event.set_bytes_total(progress.bytes_total);
    event.set_bytes_done(progress.bytes_done);
    event.set_blocks_done(progress.blocks_done);
    tell(event).IgnoreError();  // a caller that has gone is seen by the cancellation
  };
  callbacks.damage = [&](const Damage& damage) {
    v1::VerifyEvent event;
    event.mutable_damage()->set_blob(damage.blob);
    event.mutable_damage()->set_fqn(damage.owner);
    event.mutable_damage()->set_offset_bytes(damage.offset_bytes);
    event.mutable_damage()->set_size_bytes(damage.size_bytes);
    event.mutable_damage()->set_message(damage.message);
    tell(event).IgnoreError();
  };
  auto result = VerifyCheckpoint(*state_.plane, *found->source.store, *found->source.from, callbacks, cancel);
  if (!result.ok()) return result.status();
  v1::VerifyEvent event;
  event.set_bytes_total(result->progress.bytes_total);
  event.set_bytes_done(result->progress.bytes_done);
  event.set_blocks_done(result->progress.blocks_done);
  event.set_step(found->decision.step());
  event.set_finished(true);
  if (absl::Status status = tell(event); !status.ok() || result->damages == 0) return status;
  return MakeError(absl::StatusCode::kDataLoss, "DAMAGED",
                   absl::StrCat(result->damages, " blocks of step ", found->decision.step(),
                                " are damaged. Load another step."));
}

grpc::ServerWriteReactor<v1::VerifyEvent>* CheckpointsService::Verify(grpc::CallbackServerContext* context,
                                                                      const v1::VerifyRequest* request) {
  auto stream = BlockingStream<v1::VerifyEvent>::Make(context);
  stream->Start(state_.streams, [this, context, request](BlockingStream<v1::VerifyEvent>& to) {
    return VerifyOne(
        *context, *request, [&](const v1::VerifyEvent& event) { return to.Write(event); },
        *to.cancellation());
  });
  return stream.get();
}

grpc::ServerUnaryReactor* CheckpointsService::Pin(grpc::CallbackServerContext* context,
                                                  const v1::PinRequest* request, v1::PinResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request]() -> absl::Status {
    if (absl::Status status = RequireWritable(state_); !status.ok()) return status;
    if (request->id().empty() || request->id().size() > kMaxPinBytes ||
        !storage::BlobPath::Parse(request->id()).ok() || absl::StrContains(request->id(), "/")) {
      return MakeError(absl::StatusCode::kInvalidArgument, "PIN_ID",
                       "A pin's id is one path component of 1..128 bytes.");
    }
    if (request->text().size() > kMaxPinTextBytes) {
      return MakeError(absl::StatusCode::kInvalidArgument, "PIN_TEXT",
                       absl::StrCat("A pin's text has at most ", kMaxPinTextBytes, " bytes."));
    }
    auto job = JobOf(*context, request->name().job());
    if (!job.ok()) return job.status();
    auto found = state_.checkpoints->Find(**job, request->name().latest(), request->name().step());
    if (!found.ok()) return found.status();
    const int64_t step = found->decision.step();
    if (request->unpin()) return storage::UnpinStep(*(*job)->store(), step, request->id());
    const absl::Status status =
        storage::PinStep(*(*job)->store(), step, request->id(), MarkerOf(request->text()));
    return absl::IsAlreadyExists(status) ? absl::OkStatus() : status;
  });
}

absl::Status CheckpointsService::DeleteStep(const grpc::CallbackServerContext& context,
                                            const v1::DeleteRequest& request, v1::DeleteResponse& response) {
  if (absl::Status status = RequireWritable(state_); !status.ok() && !request.dry_run()) return status;
  auto job = JobOf(context, request.name().job());
  if (!job.ok()) return job.status();
  auto found = state_.checkpoints->Find(**job, request.name().latest(), request.name().step());
  if (!found.ok()) return found.status();
  storage::BlobStore& store = *(*job)->store();
  const int64_t step = found->decision.step();
  auto newest = storage::ResolveLatest(store);
  if (!newest.ok()) return newest.status();
  if (newest->has_value() && (*newest)->step() == step && !request.allow_last()) {
    return MakeError(
        absl::StatusCode::kFailedPrecondition, "LAST_CHECKPOINT",
        absl::StrCat(
            "Step ", step,
            " is what the job would resume from. To delete it all the same, say so (--allow-last)."));
  }
  auto committed = storage::CommittedAttempts(store, step);
  if (!committed.ok()) return committed.status();
  response.set_step(step);
  for (const v1::Decision& decision : *committed) {
    const std::string& name = decision.attempt();
    response.add_plan(
        absl::StrCat((*job)->label(), "/", step, " (", name, "), ", HumanBytes(decision.tensor_bytes())));
    response.set_freed_bytes(response.freed_bytes() + decision.tensor_bytes());
    if (request.dry_run()) continue;
    found->lease = nullptr;  // our own look at it
    const std::string key = (*job)->LeaseKey(name);
    if (!state_.leases->Reserve(key)) {
      return MakeError(
          absl::StatusCode::kFailedPrecondition, "IN_USE",
          absl::StrCat("Step ", step, " is being read or deleted. Try again when that is over."));
    }
    absl::Status status =
        storage::DeleteCheckpoint(store, step, *storage::ParseAttempt(name), MarkerOf("deleted on request"));
    state_.checkpoints->Forget(**job, name);
    state_.plane->cache().Invalidate(absl::StrCat((*job)->cache_prefix(), storage::AttemptDir(step, name)));
    state_.leases->Release(key);
    if (absl::IsFailedPrecondition(status)) return Because(status, "PINNED", "delete");
    if (!status.ok()) {
      (*job)->FinishDeletions();
      return Because(status, "STORE_FAILED", "delete");
    }
    status = state_.catalog->RecordGone((*job)->identity().path, step, name);
    if (!status.ok()) {
      state_.log->Warn("A deletion is not in the catalog; storage shows it, and the next start mends it.",
                       {{"job", (*job)->label()}, {"error", std::string(status.message())}});
    }
    state_.log->Info(absl::StrCat((*job)->label(), "/", step, " deleted"),
                     {{"job", (*job)->label()}, {"attempt", name}});
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* CheckpointsService::Delete(grpc::CallbackServerContext* context,
                                                     const v1::DeleteRequest* request,
                                                     v1::DeleteResponse* response) {
  return RunUnary(context, state_.calls,
                  [this, context, request, response] { return DeleteStep(*context, *request, *response); });
}

grpc::ServerUnaryReactor* CheckpointsService::Cancel(grpc::CallbackServerContext* context,
                                                     const v1::CancelRequest* request,
                                                     v1::CancelResponse* response) {
  auto unary = EventUnary::Make();
  const absl::Status writable = RequireWritable(state_);
  auto job = writable.ok() ? JobOf(*context, request->job()) : writable;
  if (!job.ok()) {
    unary->End(job.status());
    return unary.get();
  }
  (*job)->Cancel(request->step(), [unary, response](int32_t cancelled) {
    unary->End(absl::OkStatus(), [&] { response->set_cancelled(cancelled); });
  });
  return unary.get();
}

}  // namespace keepstep::daemon
