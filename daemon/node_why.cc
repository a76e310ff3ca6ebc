// Node.Why.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "daemon/error.h"
#include "daemon/job_facts.h"
#include "daemon/node_service.h"
#include "daemon/node_view.h"
#include "daemon/reactors.h"

namespace keepstep::daemon {
namespace {

// A step that this daemon has not seen being saved: what storage says of it.
absl::StatusOr<Problem> FromStorage(ServerState& state, const Job& job, int64_t step) {
  auto found = state.checkpoints->Find(job, /*latest=*/false, step);
  if (absl::IsNotFound(found.status())) {
    return MakeError(absl::StatusCode::kNotFound, "UNKNOWN_CHECKPOINT",
                     absl::StrCat("Step ", step, " of ", job.label(),
                                  " was never committed, and is not being saved. `keepstep logs ",
                                  job.label(), "` may say more."));
  }
  if (!found.ok()) return found.status();
  Problem note{.job = job.label(), .step = step, .kind = "over"};
  note.sentence = absl::StrCat(
      "Step ", step, " is committed, by ", found->decision.world_size(),
      found->decision.world_size() == 1 ? " rank, on " : " ranks, on ",
      absl::FormatTime("%Y-%m-%d %H:%M UTC", absl::FromUnixMillis(found->decision.time_unix_ms()),
                       absl::UTCTimeZone()),
      ".");
  note.next.push_back(absl::StrCat("keepstep show ", job.label(), "/", step));
  return note;
}

}  // namespace

grpc::ServerUnaryReactor* NodeService::Why(grpc::CallbackServerContext* context,
                                           const v1::WhyRequest* request, v1::WhyResponse* response) {
  return RunUnary(context, state_.calls, [this, context, request, response]() -> absl::Status {
    auto session = OptionalSession(state_, *context);
    if (!session.ok()) return session.status();
    std::vector<Problem> problems;
    const bool of_one = !request->job().empty() || request->has_step() ||
                        (*session != nullptr && (*session)->directory_fd() >= 0);
    if (of_one) {
      auto job = state_.jobs->Find(request->job(), session->get());
      if (!job.ok()) return job.status();
      const JobFacts facts = Observe(**job);
      if (request->has_step()) {
        auto one = ExplainStep(facts, request->step());
        if (!one.has_value()) {
          auto stored = FromStorage(state_, **job, request->step());
          if (!stored.ok()) return stored.status();
          one = *std::move(stored);
        }
        problems.push_back(*std::move(one));
      } else {
        problems = Explain(facts);
      }
    } else {
      for (const auto& job : state_.jobs->VisibleTo(session->get())) {
        for (Problem& problem : Explain(Observe(*job))) problems.push_back(std::move(problem));
      }
      for (const std::string& directory :
           IsOperator(session->get()) ? state_.jobs->Detached() : std::vector<std::string>()) {
        for (Problem& problem : Explain(DetachedFacts(directory))) problems.push_back(std::move(problem));
      }
      std::stable_sort(problems.begin(), problems.end(),
                       [](const Problem& a, const Problem& b) { return a.severity > b.severity; });
    }
    for (const Problem& problem : problems) *response->add_problems() = ToProto(problem);
    return absl::OkStatus();
  });
}

}  // namespace keepstep::daemon
