// gc: deletes what a job's policy no longer keeps; shows the plan and asks. pin: keeps a step whatever the
// policy.

#include <pwd.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/command/commands.h"
#include "client/command/confirm.h"
#include "client/command/format.h"
#include "client/failure.h"
#include "client/grpc_status.h"

namespace keepstep::client {
namespace {

struct CollectOptions {
  std::string name;
  int64_t keep_last = 0, keep_every = 0;
  bool yes = false, dry_run = false, take_over = false;
};

struct PinOptions {
  std::string name, id;
  bool remove = false;
};

std::string PolicyText(const v1::Retention& policy) {
  if (policy.keep_last() == 0) return "keep everything";
  return absl::StrCat("keep_last=", policy.keep_last(),
                      policy.keep_every() == 0 ? "" : absl::StrCat(", keep_every=", policy.keep_every()));
}

void PrintPlan(const v1::CollectResponse& plan, const std::string& job) {
  Table table({"", "STEP", "SIZE", "WHY"}, {1, 2});
  int deleted = 0;
  for (const v1::CollectDecision& decision : plan.decisions()) {
    deleted += !decision.keep();
    table.Add({decision.keep() ? "keep" : "delete", absl::StrCat(decision.step()),
               HumanBytes(decision.bytes()),
               absl::StrCat(decision.keep() ? "kept: " : "deleted: ", decision.reason())});
  }
  fputs(table.Render().c_str(), stdout);
  printf("%s: %s; %d of %d go, %s\n", job.c_str(), PolicyText(plan.retention()).c_str(), deleted,
         plan.decisions_size(), HumanBytes(plan.freed_bytes()).c_str());
}

int RunCollect(const Globals& globals, const CollectOptions& options) {
  auto name = ParseName(options.name);
  if (!name.ok()) return Complain(name.status());
  if (name->step.has_value())
    return Complain(absl::InvalidArgumentError("gc takes a job, not one step"),
                    absl::StrCat("keepstep rm ", options.name));
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::CollectRequest request;
  request.set_job(ToProto(*name).job());
  request.set_take_over(options.take_over);
  if (options.keep_last != 0 || options.keep_every != 0) {
    request.mutable_retention()->set_keep_last(options.keep_last);
    request.mutable_retention()->set_keep_every(options.keep_every);
  }
  const auto call = [&](bool dry_run, v1::CollectResponse& response) {
    request.set_dry_run(dry_run);
    const auto context = (*daemon)->Context();
    return (*daemon)->node().Collect(context.get(), request, &response);
  };
  const auto complain = [&](const grpc::Status& status) {
    const bool elsewhere = BlameOf(FromGrpc(status)).reason == "NOT_COORDINATOR";
    return Complain(status,
                    absl::StrCat(elsewhere ? "keepstep gc --take-over " : "keepstep ls ", options.name));
  };
  v1::CollectResponse plan, done;
  if (const grpc::Status status = call(/*dry_run=*/true, plan); !status.ok()) return complain(status);
  if (globals.json && options.dry_run) PrintJson(plan);
  if (!globals.json) PrintPlan(plan, name->job);
  if (options.dry_run) return 0;
  if (plan.freed_bytes() > 0 && !options.yes && !Confirmed()) {
    fprintf(stderr, "keepstep: nothing deleted. To delete without being asked: keepstep gc --yes %s\n",
            options.name.c_str());
    return kExitFailed;
  }
  if (const grpc::Status status = call(/*dry_run=*/false, done); !status.ok()) return complain(status);
  if (globals.json) {
    PrintJson(done);
  } else {
    printf("freed %s\n", HumanBytes(done.freed_bytes()).c_str());
  }
  return 0;
}

std::string UserName() {
  const passwd* user = getpwuid(getuid());
  return user == nullptr ? absl::StrCat("uid-", getuid()) : user->pw_name;
}

int ListPins(const Globals& globals, const Connection& daemon, const Name& name) {
  v1::ListRequest request;
  request.set_job(ToProto(name).job());
  v1::ListResponse response;
  const auto context = daemon.Context();
  if (const auto status = daemon.checkpoints().List(context.get(), request, &response); !status.ok())
    return Complain(status, "keepstep ls");
  Table table({"STEP", "PINNED BY"}, {0});
  v1::ListResponse pinned;
  for (const v1::JobInfo& job : response.jobs()) {
    v1::JobInfo* out = pinned.add_jobs();
    out->set_job(job.job());
    out->set_directory(job.directory());
    for (const v1::CheckpointInfo& checkpoint : job.checkpoints()) {
      if (!checkpoint.pinned()) continue;
      *out->add_checkpoints() = checkpoint;
      table.Add({absl::StrCat(checkpoint.decision().step()), absl::StrJoin(checkpoint.pinned_by(), ", ")});
    }
  }
  if (globals.json) {
    PrintJson(pinned);
  } else {
    fputs(table.Render().c_str(), stdout);
  }
  return 0;
}

int RunPin(const Globals& globals, const PinOptions& options) {
  auto name = ParseName(options.name);
  if (!name.ok()) return Complain(name.status());
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return Complain(daemon.status());
  const bool whole_job = !name->step.has_value() && options.name.find("/latest") == std::string::npos;
  if (whole_job && (options.remove || !options.id.empty()))
    return Complain(absl::InvalidArgumentError("pin takes JOB/STEP or JOB/latest"),
                    absl::StrCat("keepstep ls ", options.name));
  if (whole_job) return ListPins(globals, **daemon, *name);
  v1::PinRequest request;
  *request.mutable_name() = ToProto(*name);
  request.set_id(options.id.empty() ? UserName() : options.id);
  request.set_unpin(options.remove);
  request.set_text(absl::StrCat("keepstep pin, by ", UserName()));
  v1::PinResponse response;
  const auto context = (*daemon)->Context();
  if (const auto status = (*daemon)->checkpoints().Pin(context.get(), request, &response); !status.ok())
    return Complain(status, absl::StrCat("keepstep ls ", name->job));
  if (!globals.json)
    printf("%s %s as %s\n", options.remove ? "unpinned" : "pinned", options.name.c_str(),
           request.id().c_str());
  return 0;
}

}  // namespace

void AddRetention(Program& program) {
  auto collect = std::make_shared<CollectOptions>();
  auto* gc = program.Add(kAct, "gc", "Delete what the job's policy no longer keeps; shows the plan and asks",
                         [&program, collect] { return RunCollect(program.globals(), *collect); });
  gc->add_option("JOB", collect->name, "Whose checkpoints")->required();
  gc->add_option("--keep-last", collect->keep_last, "Instead of the job's own policy: the newest so many")
      ->check(CLI::PositiveNumber);
  gc->add_option("--keep-every", collect->keep_every,
                 "With --keep-last: and steps that are multiples of this")
      ->check(CLI::PositiveNumber);
  gc->add_flag("--yes,-y", collect->yes, "Do not ask");
  gc->add_flag("--dry-run,-n", collect->dry_run, "Only show the plan");
  gc->add_flag("--take-over", collect->take_over,
               "Also when another daemon ran the job last; a run going on there would be ABORTED");

  auto pin = std::make_shared<PinOptions>();
  auto* keep =
      program.Add(kAct, "pin", "Keep a step whatever the policy; with JOB alone, list what is pinned",
                  [&program, pin] { return RunPin(program.globals(), *pin); });
  keep->add_option("NAME", pin->name, "JOB/STEP, JOB/latest, or JOB")->required();
  keep->add_option("--as", pin->id, "The pin's name (default: yours)");
  keep->add_flag("--remove", pin->remove, "Take that pin away");
}

}  // namespace keepstep::client
