// Loading, and looking at what can be loaded. All of it is idempotent, so a lost connection means another
// try.

#include <algorithm>
#include <optional>

#include "client/client.h"
#include "client/failure.h"
#include "proto/checkpoints.pb.h"

namespace keepstep::client {
namespace {

// Calls `attempt` with a connected channel until it ends with something else than a lost connection.
template <typename Attempt>
absl::Status OverReconnects(Session* session, const Limits& limits, Deadline deadline,
                            const Attempt& attempt) {
  StopFlag never;
  while (true) {
    auto channel = session->AwaitConnected(deadline);
    if (!channel.ok()) return channel.status();
    const absl::Status status = attempt(channel->get());
    if (status.ok() || !OutcomeUnknown(status) || absl::IsDeadlineExceeded(status) || Expired(deadline))
      return status;
    never.Wait(RemainingMs(deadline, limits.backoff_first_ms));
  }
}

bool IsPlainLatest(const v1::LoadRequest& request) {
  return request.latest() && request.only().empty() && request.exclude().empty() && request.rename().empty() &&
         !request.convert_dtype();
}

}  // namespace

// Not asked again: where an answer is lost, other ranks may have been told to go on, and another daemon knows nothing of
// it.
absl::Status Client::Restart(Deadline deadline, v1::RestartResponse* response) {
  auto channel = session_->AwaitConnected(deadline);
  if (!channel.ok()) return channel.status();
  v1::RestartRequest request;
  request.set_generation(session_->generation());
  const absl::Status status = (*channel)->Restart(request, deadline, response);
  if (!OutcomeUnknown(status)) return status;
  return MakeError(absl::StatusCode::kAborted, "RESTART_UNKNOWN",
                   "the daemon did not say whether this rank goes on with kept memory, and others may have been told "
                   "so: start every rank again",
                   "load");
}

absl::StatusOr<Client::Loaded> Client::Load(v1::LoadRequest request, Deadline deadline,
                                            const std::function<void(const v1::LoadProgress&)>& on_progress) {
  if (absl::Status status = gate_.WaitAll(deadline); !status.ok()) return status;
  if (recorder_ != nullptr) recorder_->Forget();
  // Work that is queued on a GPU must not use, nor write, what the load fills.
  if (const auto declared = session_->declared(); declared != nullptr) {
    if (absl::Status status = devices_.Synchronize(declared->allocations); !status.ok()) return status;
  }
  BufferTable::LoadScope writable(&buffers_);
  Loaded loaded;
  if (std::lock_guard lock(restart_mu_); !restart_lost_.ok()) return restart_lost_;
  if (may_restart_.exchange(false)) {
    v1::RestartResponse restart;
    absl::Status asked = absl::OkStatus();
    if (IsPlainLatest(request)) {
      asked = Restart(deadline, &restart);
      std::lock_guard lock(restart_mu_);
      if (BlameOf(asked).reason == "RESTART_UNKNOWN") restart_lost_ = asked;  // for good: what others do is not known
    } else {
      restart.set_why_cold("a step, or some of the tensors, was loaded by name");
    }
    // Also after an error: the program may do as it likes then, and this client never asks again.
    const absl::Status made = MakeOwnedWritable(devices_.id());
    if (!asked.ok()) return asked;
    if (!made.ok()) return made;
    loaded.warm = restart.warm();
    loaded.why_cold = restart.why_cold();
    if (loaded.warm) {
      loaded.report.set_found(true);
      loaded.report.set_step(restart.step());
      loaded.report.set_epoch(restart.epoch());
      loaded.report.set_delivered_bytes(restart.host_bytes());
      return loaded;
    }
  }
  std::optional<v1::LoadReport> report;
  const absl::Status status = OverReconnects(session_.get(), limits_, deadline, [&](Channel* channel) {
    report.reset();
    request.set_generation(session_->generation());
    return channel->Load(request, deadline, [&](const v1::LoadEvent& event) {
      if (event.has_report()) report = event.report();
      if (event.has_progress() && on_progress) on_progress(event.progress());
    });
  });
  if (!status.ok()) return status;
  if (!report.has_value()) {
    return MakeError(absl::StatusCode::kInternal, "NO_REPORT", "the daemon ended the load without a report",
                     "load");
  }
  loaded.report = *std::move(report);
  return loaded;
}

absl::StatusOr<v1::GetExtraResponse> Client::GetExtras(const v1::GetExtraRequest& request,
                                                       Deadline deadline) {
  v1::GetExtraResponse response;
  const absl::Status status = OverReconnects(session_.get(), limits_, deadline, [&](Channel* channel) {
    return channel->GetExtra(request, deadline, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<std::vector<int64_t>> Client::Steps(Deadline deadline) {
  v1::ListResponse response;
  const absl::Status status = OverReconnects(session_.get(), limits_, deadline, [&](Channel* channel) {
    return channel->List(v1::ListRequest(), deadline, &response);
  });
  if (!status.ok()) return status;
  std::vector<int64_t> steps;
  for (const v1::JobInfo& job : response.jobs()) {
    for (const v1::CheckpointInfo& checkpoint : job.checkpoints())
      steps.push_back(checkpoint.decision().step());
  }
  return steps;
}

}  // namespace keepstep::client
