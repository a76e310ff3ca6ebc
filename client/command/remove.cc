// rm: deletes one checkpoint; shows the plan and asks.

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/command/commands.h"
#include "client/command/confirm.h"
#include "client/command/format.h"
#include "client/failure.h"
#include "client/grpc_status.h"

namespace keepstep::client {
namespace {

struct RemoveOptions {
  std::string name;
  bool yes = false, dry_run = false, allow_last = false;
};

absl::StatusOr<v1::DeleteResponse> Delete(const Connection& daemon, const RemoveOptions& options,
                                          const Name& name, bool dry_run, grpc::Status* status) {
  v1::DeleteRequest request;
  *request.mutable_name() = ToProto(name);
  request.set_dry_run(dry_run);
  request.set_allow_last(options.allow_last);
  v1::DeleteResponse response;
  const auto context = daemon.Context();
  *status = daemon.checkpoints().Delete(context.get(), request, &response);
  if (!status->ok()) return absl::UnknownError("");
  return response;
}

int RunRemove(const Globals& globals, const RemoveOptions& options) {
  auto name = ParseName(options.name);
  if (!name.ok()) return Complain(name.status());
  if (!name->step.has_value()) {
    return Complain(absl::InvalidArgumentError("rm takes one step by number, as JOB/STEP"),
                    absl::StrCat("keepstep ls ", name->job));
  }
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return Complain(daemon.status());
  grpc::Status status;
  const auto plan = Delete(**daemon, options, *name, /*dry_run=*/true, &status);
  if (!plan.ok()) {
    const bool last = BlameOf(FromGrpc(status)).reason == "LAST_CHECKPOINT";
    return Complain(status,
                    absl::StrCat(last ? "keepstep rm --allow-last " : "keepstep show ", options.name));
  }
  if (globals.json && options.dry_run) PrintJson(*plan);
  if (!globals.json) {
    for (const std::string& line : plan->plan()) printf("%s\n", line.c_str());
    printf("frees %s\n", HumanBytes(plan->freed_bytes()).c_str());
  }
  if (options.dry_run) return 0;
  if (!options.yes && !Confirmed()) {
    fprintf(stderr, "keepstep: nothing removed. To remove without being asked: keepstep rm --yes %s\n",
            options.name.c_str());
    return kExitFailed;
  }
  const auto done = Delete(**daemon, options, *name, /*dry_run=*/false, &status);
  if (!done.ok()) return Complain(status, absl::StrCat("keepstep show ", options.name));
  if (globals.json) {
    PrintJson(*done);
  } else {
    printf("removed %s/%ld\n", name->job.c_str(), static_cast<long>(done->step()));
  }
  return 0;
}

}  // namespace

void AddRemove(Program& program) {
  auto options = std::make_shared<RemoveOptions>();
  auto* rm = program.Add(kAct, "rm", "Delete one checkpoint; shows the plan and asks",
                         [&program, options] { return RunRemove(program.globals(), *options); });
  rm->add_option("NAME", options->name, "JOB/STEP")->required();
  rm->add_flag("--yes,-y", options->yes, "Do not ask");
  rm->add_flag("--dry-run,-n", options->dry_run, "Only show the plan");
  rm->add_flag("--allow-last", options->allow_last, "Also when it is the job's last good checkpoint");
}

}  // namespace keepstep::client
