#include "daemon/health.h"

#include "absl/strings/str_cat.h"

namespace keepstep::daemon {
namespace {

absl::Status Stuck(absl::string_view what, Pulse::Clock::duration age) {
  return absl::UnavailableError(absl::StrCat(
      what, " has not moved for ", std::chrono::duration_cast<std::chrono::seconds>(age).count(), " s"));
}

}  // namespace

absl::Status CheckAlive(const ServerState& state) {
  if (const auto age = state.ticked.Age(); age > kStuckAfter) return Stuck("the ticker", age);
  for (const auto& job : state.jobs->All()) {
    if (const auto age = job->ticked().Age(); age > kStuckAfter) return Stuck("a job's logic", age);
  }
  return absl::OkStatus();
}

absl::Status CheckReady(const ServerState& state) {
  if (absl::Status alive = CheckAlive(state); !alive.ok()) return alive;
  if (state.draining) return absl::UnavailableError("draining");
  int recovering = 0;
  for (const auto& job : state.jobs->All()) recovering += job->recovering() ? 1 : 0;
  if (recovering > 0) {
    return absl::UnavailableError(absl::StrCat("settling what an earlier daemon left in ", recovering,
                                               recovering == 1 ? " job" : " jobs"));
  }
  return absl::OkStatus();
}

}  // namespace keepstep::daemon
