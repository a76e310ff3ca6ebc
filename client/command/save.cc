// save: asks a running job to save at its next common step.
//
//   1. RequestSave sets the step at which every rank's should_save says yes.
//   2. With --wait, the job's status is looked at until that step is committed, or has failed.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/command/commands.h"
#include "client/command/format.h"
#include "client/command/interrupt.h"
#include "client/command/job_arg.h"

namespace keepstep::client {
namespace {

constexpr std::chrono::milliseconds kPeriod(200);

struct SaveOptions {
  std::string job;
  bool wait = false;
};

// What the status says of one step; empty: nothing yet.
std::string OutcomeOf(const v1::JobStatus& job, int64_t step, v1::SaveOutcome* outcome) {
  for (const v1::SaveOutcome& one : job.outcomes()) {
    if (one.step() == step) *outcome = one;
  }
  return outcome->outcome();
}

void Show(const v1::JobStatus& job, int64_t step, Progress& progress) {
  for (const v1::SaveInFlight& save : job.in_flight()) {
    if (save.step() == step) progress.Update(save.bytes_written(), save.bytes_total());
  }
}

int AwaitOutcome(const Globals& globals, Connection& daemon, const Name& name, int64_t step) {
  const Interrupt interrupt;
  Progress progress(absl::StrCat(name.job, "/", step));
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(globals.timeout_ms);
  v1::StatusRequest request;
  request.set_job(JobOf(name));
  for (;;) {
    v1::StatusResponse response;
    const auto context = daemon.Context();
    if (auto status = daemon.node().Status(context.get(), request, &response); !status.ok())
      return Complain(status);
    if (response.jobs_size() == 1) {
      v1::SaveOutcome outcome;
      const std::string became = OutcomeOf(response.jobs(0), step, &outcome);
      if (became == "committed") {
        if (globals.json) {
          PrintJson(outcome);
        } else {
          printf("%s/%ld committed, %s in %s\n", response.jobs(0).job().c_str(), static_cast<long>(step),
                 HumanBytes(outcome.bytes()).c_str(), HumanSeconds(outcome.seconds()).c_str());
        }
        return 0;
      }
      const std::string why = absl::StrCat("keepstep why ", name.job, "/", step);
      if (!became.empty()) {
        return Complain(absl::AbortedError(absl::StrCat(name.job, "/", step, " ", became, ": ",
                                                        outcome.failure().message())),
                        why);
      }
      Show(response.jobs(0), step, progress);
      if (std::chrono::steady_clock::now() >= until) {
        return Complain(absl::DeadlineExceededError(
                            absl::StrCat(name.job, "/", step, " is not committed yet; the save goes on")),
                        why);
      }
    }
    if (interrupt.WaitFor(kPeriod)) {
      fprintf(stderr, "keepstep: no longer waiting; the save goes on\n  try: keepstep watch %s\n",
              name.job.c_str());
      return kExitFailed;
    }
  }
}

int RunSave(const Globals& globals, const SaveOptions& options) {
  auto name = ParseJob(options.job);
  if (!name.ok()) return Complain(name.status(), "keepstep save JOB");
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::RequestSaveRequest request;
  request.set_job(JobOf(*name));
  v1::RequestSaveResponse response;
  const auto context = (*daemon)->Context();
  if (auto status = (*daemon)->node().RequestSave(context.get(), request, &response); !status.ok())
    return Complain(status, absl::StrCat("keepstep why ", name->job));
  if (!options.wait) {
    if (globals.json) {
      PrintJson(response);
    } else {
      printf("%s: every rank saves at step %ld\n", name->job.c_str(), static_cast<long>(response.save_at()));
    }
    return 0;
  }
  fprintf(stderr, "%s: every rank saves at step %ld\n", name->job.c_str(),
          static_cast<long>(response.save_at()));
  return AwaitOutcome(globals, **daemon, *name, response.save_at());
}

}  // namespace

void AddSave(Program& program) {
  auto options = std::make_shared<SaveOptions>();
  auto* save = program.Add(kAct, "save", "Ask a running job to save at its next common step",
                           [&program, options] { return RunSave(program.globals(), *options); });
  save->add_option("JOB", options->job, "A job that is training")->required();
  save->add_flag("--wait,-w", options->wait, "Return when that step is committed, or has failed");
}

}  // namespace keepstep::client
