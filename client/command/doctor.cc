// doctor: what this machine allows, and how to mend the rest.

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "client/command/commands.h"
#include "client/command/format.h"

namespace keepstep::client {
namespace {

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

}  // namespace

void AddDoctor(Program& program) {
  program.Add(kRun, "doctor", "What this machine allows, and how to mend the rest",
              [&program] { return RunDoctor(program.globals()); });
}

}  // namespace keepstep::client
