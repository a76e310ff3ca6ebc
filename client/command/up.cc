// up, down: a daemon of one's own, for machines where nobody runs one as a service.
//
//   up    1. If a daemon answers at the address, that is said, and nothing happens.
//         2. keepstepd starts in its own session; its log is a file beside its state.
//         3. Once it is ready its address is printed.
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
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/address.h"
#include "client/command/commands.h"
#include "client/command/launch.h"
#include "client/unique_fd.h"

namespace keepstep::client {
namespace {

constexpr int64_t kReadyMs = 60'000;

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Where a daemon of this user listens: what the address says, or the place where clients look by themselves.
absl::StatusOr<std::string> SocketDirectory(const Globals& globals) {
  const std::string given = globals.address.empty() ? Environment("KEEPSTEP_ADDR") : globals.address;
  if (!given.empty()) {
    auto address = ParseAddress(given);
    if (!address.ok()) return address.status();
    return address->grpc_path.substr(0, address->grpc_path.rfind('/'));
  }
  if (geteuid() == 0) return std::string("/run/keepstep");
  const std::string runtime = Environment("XDG_RUNTIME_DIR");
  if (absl::StartsWith(runtime, "/")) return absl::StrCat(runtime, "/keepstep");
  return absl::FailedPreconditionError(
      "XDG_RUNTIME_DIR is not set, so there is no place for the sockets; name one: --address "
      "unix:///DIR/keepstep.sock");
}

// As keepstepd chooses it.
absl::StatusOr<std::string> StateDirectory(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--state-dir" && i + 1 < arguments.size()) return arguments[i + 1];
    absl::string_view rest = arguments[i];
    if (absl::ConsumePrefix(&rest, "--state-dir=")) return std::string(rest);
  }
  if (const std::string set = Environment("KEEPSTEP_STATE_DIR"); !set.empty()) return set;
  if (geteuid() == 0) return std::string("/var/lib/keepstep");
  if (const std::string state = Environment("XDG_STATE_HOME"); !state.empty())
    return absl::StrCat(state, "/keepstep");
  if (const std::string home = Environment("HOME"); !home.empty())
    return absl::StrCat(home, "/.local/state/keepstep");
  return absl::FailedPreconditionError(
      "neither HOME nor XDG_STATE_HOME is set; name a place: --state-dir DIR");
}

// The daemon at the address, if one answers.
absl::StatusOr<v1::StatusResponse> Ask(Globals globals) {
  globals.roots.clear();
  auto daemon = Connection::Open(globals);
  if (!daemon.ok()) return daemon.status();
  v1::StatusResponse response;
  const auto context = (*daemon)->Context();
  const auto status = (*daemon)->node().Status(context.get(), {}, &response);
  if (!status.ok()) return absl::UnavailableError(status.error_message());
  return response;
}

void Report(const Globals& globals, const v1::StatusResponse& daemon, bool started, const std::string& log) {
  if (globals.json) {
    printf("{\"address\": \"%s\", \"pid\": %d, \"version\": \"%s\", \"started\": %s}\n",
           globals.address.c_str(), daemon.pid(), daemon.version().c_str(), started ? "true" : "false");
    return;
  }
  printf("keepstepd %s %s, pid %d, at %s%s\n", daemon.version().c_str(), started ? "is up" : "is up already",
         daemon.pid(), globals.address.c_str(), log.empty() ? "" : absl::StrCat(", log ", log).c_str());
}

int RunUp(Globals globals, std::vector<std::string> arguments) {
  auto sockets = SocketDirectory(globals);
  if (!sockets.ok()) return Complain(sockets.status());
  globals.address = absl::StrCat("unix://", *sockets, "/keepstep.sock");
  if (auto running = Ask(globals); running.ok()) {
    Report(globals, *running, /*started=*/false, "");
    return 0;
  }
  auto program = FindKeepstepd();
  if (!program.ok()) return Complain(program.status(), "KEEPSTEPD=/path/keepstepd keepstep up");
  auto state = StateDirectory(arguments);
  if (!state.ok()) return Complain(state.status());
  std::error_code error;
  std::filesystem::create_directories(*state, error);
  if (error) return Complain(absl::FailedPreconditionError(absl::StrCat(*state, ": ", error.message())));
  std::filesystem::permissions(*state, std::filesystem::perms::owner_all, error);
  const std::string log = absl::StrCat(*state, "/keepstepd.log");
  arguments.insert(arguments.end(), {"--socket-dir", *sockets});
  for (const std::string& root : globals.roots) arguments.insert(arguments.end(), {"--root", root});
  auto ready = LaunchService(*program, arguments, log, kReadyMs);
  auto running = Ask(globals);  // another `up` may have been faster: then that one serves
  if (running.ok()) {
    Report(globals, *running, ready.ok(), log);
    return 0;
  }
  return Complain(ready.ok() ? running.status() : ready.status(), absl::StrCat("less ", log));
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
  auto* up = program.Add(kRun, "up", "Start a daemon for this user, unless one runs",
                         [&program, arguments] { return RunUp(program.globals(), *arguments); });
  up->add_option("FLAGS", *arguments, "Flags of keepstepd, after --");
  program.Add(kRun, "down", "Drain the daemon at the address, and end it",
              [&program] { return RunDown(program.globals()); });
}

}  // namespace keepstep::client
