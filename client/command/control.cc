// cancel, drain, reindex: what operators ask of a running daemon.

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/command/commands.h"
#include "client/command/format.h"
#include "client/command/job_arg.h"
#include "client/failure.h"
#include "client/grpc_status.h"

namespace keepstep::client {
namespace {

int RunCancel(const Globals& globals, const std::string& text) {
  auto name = ParseStep(text, "cancel");
  if (!name.ok()) return Complain(name.status(), "keepstep status");
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::CancelRequest request;
  request.set_job(JobOf(*name));
  request.set_step(*name->step);
  v1::CancelResponse response;
  const auto context = (*daemon)->Context();
  if (auto status = (*daemon)->checkpoints().Cancel(context.get(), request, &response); !status.ok())
    return Complain(status, "keepstep status");
  if (response.cancelled() == 0) {
    return Complain(
        absl::NotFoundError(absl::StrCat("no save of ", text, " is in flight, or it is being committed")),
        absl::StrCat("keepstep why ", text));
  }
  if (globals.json) {
    PrintJson(response);
  } else {
    printf("cancelled the save of %s; its space comes back\n", text.c_str());
  }
  return 0;
}

int RunDrain(const Globals& globals) {
  auto daemon = Connection::Open(globals);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::DrainRequest request;
  request.set_limit_seconds(static_cast<double>(globals.timeout_ms) / 1000);
  request.set_exit(true);
  v1::DrainResponse response;
  constexpr int64_t kForTheAnswerMs = 30'000;
  const auto context = (*daemon)->Context(kForTheAnswerMs);
  fprintf(stderr, "draining: no new saves start, those in flight have %s\n",
          HumanSeconds(request.limit_seconds()).c_str());
  if (auto status = (*daemon)->node().Drain(context.get(), request, &response); !status.ok())
    return Complain(status, "keepstep status");
  if (globals.json) PrintJson(response);
  if (response.undecided() > 0) {
    return Complain(
        absl::DeadlineExceededError(absl::StrCat(
            response.undecided(), " saves are undecided; the daemon ends, its next start settles them")),
        "keepstep up");
  }
  if (!globals.json) printf("drained: every save is decided; the daemon ends\n");
  return 0;
}

int RunReindex(const Globals& globals, const std::string& text) {
  auto name = ParseJob(text);
  if (!name.ok()) return Complain(name.status(), "keepstep reindex JOB");
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::ReindexRequest request;
  request.set_job(JobOf(*name));
  v1::ReindexResponse response;
  const auto context = (*daemon)->Context();
  if (auto status = (*daemon)->node().Reindex(context.get(), request, &response); !status.ok())
    return Complain(status, "keepstep ls");
  if (globals.json) {
    PrintJson(response);
  } else {
    printf("%ld checkpoint%s, %ld extents indexed from storage in %s\n",
           static_cast<long>(response.checkpoints()), response.checkpoints() == 1 ? "" : "s",
           static_cast<long>(response.extents()), HumanSeconds(response.seconds()).c_str());
  }
  return 0;
}

}  // namespace

void AddControl(Program& program) {
  auto name = std::make_shared<std::string>(), job = std::make_shared<std::string>();
  auto* cancel = program.Add(kAct, "cancel", "Give up a save in flight",
                             [&program, name] { return RunCancel(program.globals(), *name); });
  cancel->add_option("NAME", *name, "JOB/STEP")->required();

  program.Add(kRun, "drain", "No new saves; wait for those in flight, at most --timeout; end the daemon",
              [&program] { return RunDrain(program.globals()); });

  auto* reindex = program.Add(kAct, "reindex", "Rebuild the daemon's index of a job, or of all, from storage",
                              [&program, job] { return RunReindex(program.globals(), *job); });
  reindex->add_option("JOB", *job, "Only this job");
}

}  // namespace keepstep::client
