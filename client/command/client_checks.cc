#include "client/command/client_checks.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/address.h"
#include "client/command/format.h"
#include "client/device/driver_facts.h"
#include "client/limits.h"
#include "client/version.h"

namespace keepstep::client {
namespace {

constexpr rlim_t kFewDescriptors = 1024;

void Add(v1::DoctorResponse& checks, const std::string& name, v1::Check::Result result,
         const std::string& found, const std::string& remedy = "") {
  v1::Check* check = checks.add_checks();
  check->set_name(name);
  check->set_result(result);
  check->set_found(found);
  if (result != v1::Check::OK) check->set_remedy(remedy);
}

// Why a socket that is there does not let this user in.
std::string Permissions(const std::string& path) {
  struct stat socket = {};
  if (stat(path.c_str(), &socket) != 0) return absl::StrCat(path, ": ", strerror(errno));
  return absl::StrFormat("%s has mode %o, uid %d, gid %d", path, socket.st_mode & 0777, socket.st_uid,
                         socket.st_gid);
}

void CheckReach(const Globals& globals, const absl::Status& status, v1::DoctorResponse& checks) {
  const std::string text = globals.address.empty() ? DefaultAddress() : globals.address;
  const std::string who = absl::StrCat("uid ", geteuid(), " at ", globals.roots.empty() ? text : "--root");
  if (status.ok()) {
    Add(checks, "reach", v1::Check::OK, absl::StrCat(who, " is let in"));
    return;
  }
  const auto address = ParseAddress(text);
  const std::string there =
      address.ok() && globals.roots.empty() ? absl::StrCat("; ", Permissions(address->grpc_path)) : "";
  Add(checks, "reach", v1::Check::FAILED, absl::StrCat(who, ": ", status.message(), there),
      "Start a daemon (keepstep up), name another (--address), or join the group of its socket.");
}

std::string YamaScope() {
  std::ifstream file("/proc/sys/kernel/yama/ptrace_scope");
  std::string line;
  return std::getline(file, line) ? absl::StrCat("yama ptrace_scope ", line) : "no yama";
}

// The daemon has just tried to read this very process, as it tries every trainer.
void CheckTransfer(const Connection& daemon, v1::DoctorResponse& checks) {
  const bool pull = daemon.pulls();
  Add(checks, "pull from here", pull ? v1::Check::OK : v1::Check::WARNING,
      absl::StrCat("the daemon ", pull ? "reads" : "may not read", " memory of processes of uid ", geteuid(),
                   "; ", YamaScope()),
      "Saves go through the window, one more copy. Run daemon and trainers as one user in one pid namespace, "
      "or give the daemon CAP_SYS_PTRACE.");
}

void CheckVersion(const Connection& daemon, v1::DoctorResponse& checks) {
  v1::StatusResponse response;
  const auto context = daemon.Context();
  if (const auto status = daemon.node().Status(context.get(), {}, &response); !status.ok()) {
    Add(checks, "version", v1::Check::FAILED, status.error_message(),
        "The daemon does not answer: keepstep logs.");
    return;
  }
  const bool same = response.version() == kVersion;
  Add(checks, "version", same ? v1::Check::OK : v1::Check::WARNING,
      absl::StrCat("client ", kVersion, ", daemon ", response.version()), "Install matching versions.");
}

void CheckOwn(v1::DoctorResponse& checks) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  Add(checks, "open files here", limit.rlim_cur >= kFewDescriptors ? v1::Check::OK : v1::Check::WARNING,
      absl::StrCat(limit.rlim_cur), "Raise ulimit -n for trainers to 1024 or more.");
  const auto limits = LimitsFromEnvironment();
  if (!limits.ok()) {
    Add(checks, "watchdog", v1::Check::FAILED, std::string(limits.status().message()),
        "Correct $KEEPSTEP_LIMITS.");
    return;
  }
  Add(checks, "watchdog", v1::Check::OK,
      absl::StrCat("a trainer's gate opens by itself when the daemon ends, after ",
                   limits->heartbeat_ms / 1000, " s without its heartbeat, or after ",
                   limits->progress_ms / 1000, " s of copying without progress"));
}

// What a trainer here finds; the daemon's own view is among its checks.
void CheckDriver(v1::DoctorResponse& checks) {
  const DriverFacts facts = LookAtDriver();
  Add(checks, "CUDA driver", facts.works ? v1::Check::OK : v1::Check::WARNING, facts.text,
      "GPU memory cannot be registered here. See whether nvidia-smi works in this container.");
}

}  // namespace

void CheckClient(const Globals& globals, const absl::StatusOr<std::unique_ptr<Connection>>& daemon,
                 v1::DoctorResponse& checks) {
  CheckReach(globals, daemon.status(), checks);
  CheckOwn(checks);
  CheckDriver(checks);
  if (!daemon.ok()) return;
  CheckTransfer(**daemon, checks);
  CheckVersion(**daemon, checks);
}

std::string ChecksText(const v1::DoctorResponse& checks) {
  Table table({"", "CHECK", "FOUND"});
  for (const v1::Check& check : checks.checks()) {
    table.Add({check.result() == v1::Check::OK        ? "ok"
               : check.result() == v1::Check::WARNING ? "warn"
                                                      : "FAIL",
               check.name(), check.found()});
    if (!check.remedy().empty()) table.Add({"", "", absl::StrCat("mend: ", check.remedy())});
  }
  return table.Render();
}

}  // namespace keepstep::client
