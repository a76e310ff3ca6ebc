// doctor: what this machine allows, on both sides of the socket, and how to mend the rest.
//
// 1 when a check failed; 3 when no daemon answers, after the checks of this side.

#include <cstdio>
#include <memory>

#include "client/command/client_checks.h"
#include "client/command/commands.h"

namespace keepstep::client {
namespace {

int RunDoctor(const Globals& globals) {
  auto daemon = Connection::Open(globals);
  v1::DoctorResponse all;
  CheckClient(globals, daemon, all);
  absl::Status status = daemon.status();
  if (daemon.ok()) {
    v1::DoctorResponse response;
    const auto context = (*daemon)->Context();
    const grpc::Status answer = (*daemon)->node().Doctor(context.get(), {}, &response);
    if (!answer.ok()) return Complain(answer, "keepstep logs");
    all.MergeFrom(response);
  }
  if (globals.json) {
    PrintJson(all);
  } else {
    fputs(ChecksText(all).c_str(), stdout);
  }
  if (!status.ok()) return Complain(status, "keepstep up");
  for (const v1::Check& check : all.checks()) {
    if (check.result() == v1::Check::FAILED) return kExitFailed;
  }
  return 0;
}

}  // namespace

void AddDoctor(Program& program) {
  program.Add(kRun, "doctor", "What this machine allows, and how to mend the rest",
              [&program] { return RunDoctor(program.globals()); });
}

}  // namespace keepstep::client
