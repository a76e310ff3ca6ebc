#include "client/command/own_daemon.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/address.h"
#include "client/command/launch.h"
#include "client/command/settings.h"
#include "client/failure.h"
#include "client/unique_fd.h"
#include "proto/handoff.h"

namespace keepstep::client {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int64_t kReadyMs = 60'000, kAnswerMs = 10'000;
constexpr milliseconds kTurnLimit(90'000), kEndLimit(30'000), kStateLimit(1'000), kLook(10);
constexpr char kIdle[] = "30min";

absl::Status Errno(absl::string_view what) {
  return absl::Status(absl::ErrnoToStatusCode(errno), absl::StrCat(what, ": ", strerror(errno)));
}

// Takes the lock of a file, made if `create`; an invalid descriptor where there is no such file, or somebody
// held it for all of `limit`.
UniqueFd TakeLock(const std::string& path, bool create, milliseconds limit) {
  const auto until = Clock::now() + limit;
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0), 0600));
  while (fd.valid() && flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (Clock::now() >= until) return UniqueFd();
    std::this_thread::sleep_for(kLook);
  }
  return fd;
}

absl::StatusOr<std::string> SocketFolder(const Globals& globals) {
  const char* variable = std::getenv("KEEPSTEP_ADDR");
  const std::string given = !globals.address.empty() ? globals.address : variable == nullptr ? "" : variable;
  if (given.empty()) return OwnFolder();
  auto address = ParseAddress(given);
  if (!address.ok()) return address.status();
  return address->grpc_path.substr(0, address->grpc_path.rfind('/'));
}

absl::Status MakeFolder(const std::string& path, mode_t mode) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return Errno(path);
  return absl::OkStatus();
}

// What the user has not set himself.
struct Settings {
  std::string state, log;
  bool among_others = false;  // the state, where anybody can make anything
  std::vector<std::string> arguments;
};

absl::StatusOr<Settings> Choose(const std::string& program, std::vector<std::string> arguments,
                                bool on_demand) {
  Settings settings{.arguments = arguments};
  arguments.push_back("--print-config");
  auto printed = OutputOf(program, arguments, kAnswerMs);
  if (!printed.ok()) return printed.status();
  const auto add = [&](const char* flag, const std::string& value) {
    settings.arguments.insert(settings.arguments.end(), {flag, value});
  };
  const Printed state = FindSetting(*printed, "state_dir"), log = FindSetting(*printed, "log.file");
  settings.state = state.value;
  if (state.value.empty()) {
    return absl::FailedPreconditionError(
        "neither HOME nor XDG_STATE_HOME is set; name a place for the state: --state-dir DIR");
  }
  if (state.is_default && IsOnNetwork(state.value)) {
    settings.state = absl::StrCat("/var/tmp/keepstep-", geteuid());
    add("--state-dir", settings.state);
    settings.among_others = true;
  }
  settings.log = log.value;
  if (log.value == "stderr") {
    settings.log = absl::StrCat(settings.state, "/keepstepd.log");
    add("--log-file", settings.log);
  }
  if (on_demand && FindSetting(*printed, "exit.idle").is_default) add("--exit-idle", kIdle);
  return settings;
}

absl::StatusOr<OwnDaemon> Launch(const Globals& globals, const std::string& folder,
                                 std::vector<std::string> arguments, bool on_demand) {
  auto program = FindKeepstepd();
  if (!program.ok()) return program.status();
  if (!TakeLock(absl::StrCat(folder, "/lock"), /*create=*/true, kEndLimit).valid()) {
    return absl::UnavailableError(absl::StrCat(
        "a keepstepd holds ", folder, "/lock but serves nobody any more; try again when it has ended"));
  }
  arguments.insert(arguments.end(), {"--socket-dir", folder});
  for (const std::string& root : globals.roots) arguments.insert(arguments.end(), {"--root", root});
  auto settings = Choose(*program, std::move(arguments), on_demand);
  if (!settings.ok()) return settings.status();
  if (absl::Status status = MakeFolder(settings->state, 0700); !status.ok()) return status;
  if (absl::Status status = settings->among_others ? CheckOwn(settings->state) : absl::OkStatus();
      !status.ok())
    return status;
  TakeLock(absl::StrCat(settings->state, "/lock"), /*create=*/false, kStateLimit);
  auto ready = LaunchService(*program, settings->arguments, settings->log, kReadyMs);
  if (!ready.ok()) return ready.status();
  auto running = Ask(globals);
  if (!running.ok()) return running.status();
  return OwnDaemon{
      .status = *std::move(running), .started = true, .address = globals.address, .log = settings->log};
}

}  // namespace

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

absl::StatusOr<OwnDaemon> StartOwn(const Globals& given, std::vector<std::string> arguments, bool on_demand) {
  auto folder = SocketFolder(given);
  if (!folder.ok()) return folder.status();
  Globals globals = given;
  globals.address = absl::StrCat("unix://", *folder, "/", proto::kGrpcSocketName);
  if (auto address = ParseAddress(globals.address); !address.ok()) return address.status();
  const bool own = given.address.empty();
  if (absl::Status status = MakeFolder(*folder, own ? 0700 : 0750); !status.ok()) return status;
  if (auto again = SocketFolder(given); !again.ok()) return again.status();  // it may be somebody else's
  const UniqueFd turn = TakeLock(absl::StrCat(*folder, "/start.lock"), /*create=*/true, kTurnLimit);
  if (!turn.valid()) {
    return absl::UnavailableError(absl::StrCat(
        *folder, "/start.lock cannot be taken: somebody else has been starting a daemon for long"));
  }
  auto running = Ask(globals);
  if (running.ok()) return OwnDaemon{.status = *std::move(running), .address = globals.address};
  return Launch(globals, *folder, std::move(arguments), on_demand);
}

}  // namespace keepstep::client
