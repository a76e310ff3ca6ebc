#include "daemon/doctor.h"

#include "absl/strings/str_cat.h"

namespace keepstep::daemon {
namespace {

// The gate's and the watchdog's limits that this daemon works under; docs/configuration.md has their keys.
// What the trainers' own side waits is compiled into the client library, which the command is made with: it
// says so itself.
void CheckLimits(const ServerState& state, v1::DoctorResponse& response) {
  const Limits limits = state.config.limits();
  AddCheck(response, "limits", v1::Check::OK,
           absl::StrCat("saves in flight ", limits.max_saves_in_flight, ", queued ", limits.max_saves_queued,
                        "; a save without progress fails after ", DurationText(limits.save_progress_ms),
                        "; a lost client may resume within ", DurationText(limits.resume_ms),
                        "; missing ranks are waited for ", DurationText(limits.roster_ms),
                        "; a drain on request takes at most ", DurationText(limits.drain_ms)));
}

void CheckState(const ServerState& state, v1::DoctorResponse& response) {
  if (state.read_only) {
    AddCheck(response, "daemon", v1::Check::OK,
             "started for one look; storage is not probed, because that writes");
  } else if (state.draining) {
    AddCheck(response, "daemon", v1::Check::WARNING, "draining: no save starts",
             "Start it again: keepstep up.");
  } else {
    AddCheck(response, "daemon", v1::Check::OK, "serves");
  }
}

}  // namespace

std::string DurationText(int64_t millis) {
  return millis % 60'000 == 0 ? absl::StrCat(millis / 60'000, " min")
                              : absl::StrCat(static_cast<double>(millis) / 1000, " s");
}

void AddCheck(v1::DoctorResponse& response, const std::string& name, v1::Check::Result result,
              const std::string& found, const std::string& remedy) {
  v1::Check* check = response.add_checks();
  check->set_name(name);
  check->set_result(result);
  check->set_found(found);
  if (result != v1::Check::OK) check->set_remedy(remedy);
}

v1::DoctorResponse Examine(const ServerState& state, const ClientSession* session) {
  v1::DoctorResponse response;
  CheckState(state, response);
  CheckMachine(state, response);
  CheckMemory(state, response);
  CheckGpu(state, response);
  CheckLimits(state, response);
  CheckStorage(state, session, response);
  return response;
}

}  // namespace keepstep::daemon
