// verify, rm, doctor, version.

#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/command/commands.h"
#include "client/command/format.h"
#include "client/failure.h"
#include "client/grpc_status.h"
#include "client/version.h"

namespace keepstep::client {
namespace {

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

bool Confirmed() {
  if (!isatty(STDIN_FILENO)) return false;
  fprintf(stderr, "Go on? [y/N] ");
  std::string answer;
  std::getline(std::cin, answer);
  return answer == "y" || answer == "Y" || answer == "yes";
}

}  // namespace

int RunVerify(const Globals& globals, const std::string& text) {
  auto name = ParseName(text);
  if (!name.ok()) return Complain(name.status());
  auto daemon = Connection::For(globals, *name);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::VerifyRequest request;
  *request.mutable_name() = ToProto(*name);
  const auto context = (*daemon)->Context();
  auto stream = (*daemon)->checkpoints().Verify(context.get(), request);
  Progress progress("verify");
  v1::VerifyEvent event, last;
  int damaged = 0;
  while (stream->Read(&event)) {
    progress.Update(event.bytes_done(), event.bytes_total());
    if (event.has_damage()) {
      ++damaged;
      const v1::Damage& damage = event.damage();
      if (!globals.json) {
        printf("DAMAGED %s: %s, bytes %ld..%ld: %s\n", damage.blob().c_str(), damage.fqn().c_str(),
               static_cast<long>(damage.offset_bytes()),
               static_cast<long>(damage.offset_bytes() + damage.size_bytes()), damage.message().c_str());
      }
    }
    if (globals.json && (event.has_damage() || event.finished())) PrintJson(event);
    last = event;
  }
  const grpc::Status status = stream->Finish();
  if (damaged > 0) {
    fprintf(stderr, "keepstep: %d damaged piece%s in %s/%ld. Load an earlier step: keepstep ls %s\n", damaged,
            damaged == 1 ? "" : "s", name->job.c_str(), static_cast<long>(last.step()), name->job.c_str());
    return kExitDamaged;
  }
  if (!status.ok()) return Complain(status, absl::StrCat("keepstep ls ", name->job));
  if (!globals.json) {
    printf("%s/%ld: %s in %ld blocks read from storage, every digest matches\n", name->job.c_str(),
           static_cast<long>(last.step()), HumanBytes(last.bytes_done()).c_str(),
           static_cast<long>(last.blocks_done()));
  }
  return 0;
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

int RunDoctor(const Globals& globals) {
  auto daemon = Connection::Open(globals);
  if (!daemon.ok()) return Complain(daemon.status());
  v1::DoctorResponse response;
  const auto context = (*daemon)->Context();
  if (auto status = (*daemon)->node().Doctor(context.get(), {}, &response); !status.ok())
    return Complain(status);
  int failed = 0;
  for (const v1::Check& check : response.checks()) failed += check.result() == v1::Check::FAILED;
  if (globals.json) {
    PrintJson(response);
    return failed > 0 ? kExitFailed : 0;
  }
  Table table({"", "CHECK", "FOUND"});
  for (const v1::Check& check : response.checks()) {
    table.Add({check.result() == v1::Check::OK        ? "ok"
               : check.result() == v1::Check::WARNING ? "warn"
                                                      : "FAIL",
               check.name(), check.found()});
    if (!check.remedy().empty()) table.Add({"", "", absl::StrCat("mend: ", check.remedy())});
  }
  fputs(table.Render().c_str(), stdout);
  return failed > 0 ? kExitFailed : 0;
}

int RunVersion(const Globals& globals) {
  std::string daemon_version;
  if (auto daemon = Connection::Open(globals); daemon.ok()) {
    v1::StatusResponse response;
    const auto context = (*daemon)->Context();
    if ((*daemon)->node().Status(context.get(), {}, &response).ok()) daemon_version = response.version();
  }
  if (globals.json) {
    printf("{\"client\": \"%s\", \"daemon\": %s}\n", kVersion,
           daemon_version.empty() ? "null" : absl::StrCat("\"", daemon_version, "\"").c_str());
  } else {
    printf("keepstep %s, daemon %s\n", kVersion,
           daemon_version.empty() ? "not running" : daemon_version.c_str());
  }
  return 0;
}

}  // namespace keepstep::client
