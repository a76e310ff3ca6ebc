// Sessions.Load: a trainer's step is resolved by its job's machine, a reader's by its run; then the rank is
// filled.

#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/error.h"
#include "daemon/loads.h"
#include "daemon/reactors.h"
#include "daemon/sessions_service.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kRunsKept = 1024;

v1::LoadEvent NothingFound(int64_t epoch) {
  v1::LoadEvent event;
  event.mutable_report()->set_found(false);
  event.mutable_report()->set_epoch(epoch);
  return event;
}

}  // namespace

absl::StatusOr<FoundCheckpoint> SessionsService::FindForReader(const Membership& member, bool latest,
                                                               int64_t step) {
  if (!latest) return state_.checkpoints->Find(*member.job, false, step);
  if (member.world_size > 1 && member.run.empty()) {
    return MakeError(
        absl::StatusCode::kInvalidArgument, "NO_RUN",
        "Readers of more than one rank name a run, or the step: else ranks could get different ones.");
  }
  const std::string key = absl::StrCat(member.job->cache_prefix(), "\n", member.run);
  std::lock_guard lock(mutex_);  // held over the look-up: one answer per run
  auto known = std::find_if(runs_.begin(), runs_.end(), [&](const auto& run) { return run.first == key; });
  if (known != runs_.end() && !member.run.empty()) {
    return state_.checkpoints->FindAttempt(*member.job, known->second.first, known->second.second);
  }
  auto found = state_.checkpoints->Find(*member.job, true, 0);
  if (!found.ok() || member.run.empty()) return found;
  runs_.push_back({key, {found->decision.step(), found->decision.attempt()}});
  if (runs_.size() > kRunsKept) runs_.pop_front();
  return found;
}

grpc::ServerWriteReactor<v1::LoadEvent>* SessionsService::Load(grpc::CallbackServerContext* context,
                                                               const v1::LoadRequest* request) {
  auto stream = BlockingStream<v1::LoadEvent>::Make(context);
  auto session = RequireMember(state_, *context);
  auto registration = session.ok() ? (*session)->RegistrationOf(request->generation()) : session.status();
  if (!registration.ok()) {
    stream->Refuse(registration.status());
    return stream.get();
  }
  const auto member = (*session)->membership();
  auto meter = std::make_shared<LoadMeter>(state_.metrics);
  // `request` lives as long as the call.
  auto fill = [this, request, meter, session = *session, registration = *registration](
                  BlockingStream<v1::LoadEvent>& to, const FoundCheckpoint& from) -> absl::Status {
    meter->Resolved();
    std::mutex mutex;
    auto last = std::chrono::steady_clock::now();
    int64_t pending_done = 0, pending_total = 0;
    auto progress = [&](int64_t done, int64_t total) {
      session->pages().AddProgress(1);
      std::lock_guard lock(mutex);
      pending_done = std::max(pending_done, done);
      pending_total = total;
      if (std::chrono::steady_clock::now() - last < std::chrono::milliseconds(200)) return;
      last = std::chrono::steady_clock::now();
      v1::LoadEvent event;
      event.mutable_progress()->set_bytes_done(pending_done);
      event.mutable_progress()->set_bytes_total(pending_total);
      to.Write(event).IgnoreError();  // a caller that has gone is seen by the cancellation
    };
    auto report = LoadRank(*state_.plane, from, *registration, session->port(registration), *request, progress, *meter,
                           *to.cancellation());
    if (!report.ok()) return report.status();
    v1::LoadEvent event;
    *event.mutable_report() = *std::move(report);
    return to.Write(event);
  };
  // Every load ends here, once; what a caller that has gone would have got is counted too.
  auto start = [this, stream, meter](std::function<absl::Status(BlockingStream<v1::LoadEvent>&)> work) {
    stream->Start(state_.loads, [meter, work = std::move(work)](BlockingStream<v1::LoadEvent>& to) {
      return meter->Over(work(to));
    });
  };
  if (!member->training) {
    start([this, fill, member = *member, request](BlockingStream<v1::LoadEvent>& to) -> absl::Status {
      auto found = FindForReader(member, request->latest(), request->step());
      if (absl::IsNotFound(found.status()) && request->latest()) return to.Write(NothingFound(0));
      if (!found.ok()) return found.status();
      return fill(to, *found);
    });
    return stream.get();
  }
  member->job->ResolveLoad(
      (*session)->id(), request->latest(), request->step(),
      [this, start, fill, job = member->job, rank = member->rank](const AnswerLoad& answer) {
        // A rank that loads has not gone on with kept memory, so none may.
        state_.kept->Decline(job->identity().path, answer.epoch, absl::StrCat("rank ", rank, " loads"));
        // On the job's strand: no deletion that it decides from now on comes before the load.
        ReadLease lease = answer.found ? state_.checkpoints->Hold(*job, answer.attempt) : nullptr;
        start([this, fill, job, answer,
               lease = std::move(lease)](BlockingStream<v1::LoadEvent>& to) -> absl::Status {
          if (answer.failure.code != absl::StatusCode::kOk) return FromFailure(answer.failure);
          if (!answer.found) return to.Write(NothingFound(answer.epoch));
          auto found = state_.checkpoints->FindAttempt(*job, answer.step, answer.attempt);
          if (!found.ok()) return found.status();
          return fill(to, *found);
        });
      });
  return stream.get();
}

}  // namespace keepstep::daemon
