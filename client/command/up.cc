// up, down: a daemon of one's own, for machines where nobody runs one as a service.
//
//   up    as own_daemon.h says.
//   down  1. The daemon says its pid; that very process gets SIGTERM, through a descriptor that no reused pid
//   can fool.
//         2. It drains within its own limit and ends; down waits for that.

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/address.h"
#include "client/command/commands.h"
#include "client/command/own_daemon.h"
#include "client/unique_fd.h"

namespace keepstep::client {
namespace {

int RunUp(const Globals& globals, std::vector<std::string> arguments, bool on_demand) {
  auto daemon = StartOwn(globals, std::move(arguments), on_demand);
  if (!daemon.ok()) {
    return Complain(daemon.status(), absl::IsNotFound(daemon.status())
                                         ? "KEEPSTEPD=/path/keepstepd keepstep up"
                                         : "keepstepd --check, with the flags that were given to it");
  }
  const v1::StatusResponse& status = daemon->status;
  if (globals.json) {
    const nlohmann::ordered_json out = {{"address", daemon->address},
                                        {"pid", status.pid()},
                                        {"version", status.version()},
                                        {"started", daemon->started},
                                        {"log", daemon->log}};
    puts(out.dump().c_str());
    return 0;
  }
  printf("keepstepd %s %s, pid %d, at %s%s\n", status.version().c_str(),
         daemon->started ? "is up" : "is up already", status.pid(), daemon->address.c_str(),
         daemon->log.empty() ? "" : absl::StrCat(", log ", daemon->log).c_str());
  return 0;
}

int PidfdOpen(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

// `pid` as the daemon says it may be another process here: of another pid namespace.
bool IsKeepstepd(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/comm"));
  std::string name;
  return std::getline(file, name) && absl::StartsWith(name, "keepstepd");
}

int RunDown(const Globals& globals) {
  auto running = Ask(globals);
  const std::string address = globals.address.empty() ? DefaultAddress() : globals.address;
  if (!running.ok()) {
    if (absl::IsUnavailable(running.status())) {
      fprintf(stderr, "keepstep: no daemon runs at %s: %s\n", address.c_str(),
              std::string(running.status().message()).c_str());
      return 0;
    }
    return Complain(running.status());
  }
  const pid_t pid = running->pid();
  const UniqueFd process(PidfdOpen(pid));
  if (!process.valid() || !IsKeepstepd(pid)) {
    return Complain(absl::FailedPreconditionError(absl::StrCat("the daemon says that its pid is ", pid,
                                                               ", which is no keepstepd here: does it "
                                                               "run in a container?")),
                    "keepstep drain");
  }
  if (syscall(SYS_pidfd_send_signal, process.get(), SIGTERM, nullptr, 0) != 0) {
    return Complain(absl::PermissionDeniedError(
                        absl::StrCat("keepstepd, pid ", pid, ", is not yours: ", strerror(errno))),
                    "sudo keepstep down");
  }
  pollfd ended{process.get(), POLLIN, 0};
  fprintf(stderr, "keepstepd, pid %d, drains and ends\n", pid);
  if (poll(&ended, 1, static_cast<int>(std::min<int64_t>(globals.timeout_ms, INT32_MAX))) != 1) {
    return Complain(absl::DeadlineExceededError(absl::StrCat("keepstepd, pid ", pid, ", still drains")),
                    "keepstep watch");
  }
  if (globals.json) {
    printf("{\"pid\": %d}\n", pid);
  } else {
    printf("keepstepd, pid %d, is down\n", pid);
  }
  return 0;
}

}  // namespace

void AddUp(Program& program) {
  auto arguments = std::make_shared<std::vector<std::string>>();
  auto on_demand = std::make_shared<bool>(false);
  auto* up = program.Add(
      kRun, "up", "Start a daemon for this user, unless one runs",
      [&program, arguments, on_demand] { return RunUp(program.globals(), *arguments, *on_demand); });
  up->add_flag("--on-demand", *on_demand,
               "End it when nobody has needed it for 30 min, unless exit.idle is set");
  up->add_option("FLAGS", *arguments, "Flags of keepstepd, after --");
  program.Add(kRun, "down", "Drain the daemon at the address, and end it",
              [&program] { return RunDown(program.globals()); });
}

}  // namespace keepstep::client
