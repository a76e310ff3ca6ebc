// version: of the command and of the daemon.

#include "client/version.h"

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/command/commands.h"

namespace keepstep::client {
namespace {

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

}  // namespace

void AddVersion(Program& program) {
  program.Add(kRun, "version", "Versions of the command and of the daemon",
              [&program] { return RunVersion(program.globals()); });
}

}  // namespace keepstep::client
