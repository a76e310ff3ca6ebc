// bundle: one text file for a bug report.
//
//   1. This side: versions, checks, limits. No environment: values there may be secrets.
//   2. The daemon's side, as Node.Bundle gives it; without a daemon the bundle says why there is none.
// The file is made 0600 and never replaces one; "-" is stdout.

#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/command/client_checks.h"
#include "client/command/commands.h"
#include "client/command/format.h"
#include "client/unique_fd.h"
#include "client/version.h"

namespace keepstep::client {
namespace {

std::string Section(const std::string& name, const std::string& text) {
  return absl::StrCat("==== ", name, " ====\n", text, text.empty() || text.back() != '\n' ? "\n" : "", "\n");
}

std::string ReadAll(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string Machine() {
  utsname name{};
  uname(&name);
  return absl::StrCat("keepstep ", kVersion, "\n", name.sysname, " ", name.release, " ", name.machine, "\n",
                      ReadAll("/etc/os-release"));
}

std::string OwnSide(const Globals& globals, const absl::StatusOr<std::unique_ptr<Connection>>& daemon) {
  v1::DoctorResponse checks;
  CheckClient(globals, daemon, checks);
  return absl::StrCat(Section("client", Machine()), Section("client checks", ChecksText(checks)),
                      Section("client limits", ReadAll("/proc/self/limits")));
}

grpc::Status DaemonSide(const Connection& daemon, std::string& text) {
  const auto context = daemon.Context();
  auto stream = daemon.node().Bundle(context.get(), {});
  v1::BundleChunk chunk;
  while (stream->Read(&chunk)) text += chunk.text();
  return stream->Finish();
}

absl::Status Write(const std::string& path, const std::string& text) {
  const auto errno_status = [&] {
    const std::string message = absl::StrCat(path, ": ", strerror(errno));
    return errno == EEXIST ? absl::AlreadyExistsError(message) : absl::FailedPreconditionError(message);
  };
  const bool to_stdout = path == "-";
  UniqueFd file(to_stdout ? dup(STDOUT_FILENO)
                          : open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.valid()) return errno_status();
  absl::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t wrote = write(file.get(), rest.data(), rest.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      const absl::Status failed = errno_status();
      if (!to_stdout) unlink(path.c_str());
      return failed;
    }
    rest.remove_prefix(static_cast<size_t>(wrote));
  }
  return absl::OkStatus();
}

int RunBundle(const Globals& globals, std::string path) {
  if (path.empty()) {
    path = absl::StrCat("keepstep-bundle-",
                        absl::FormatTime("%Y%m%d-%H%M%S", absl::Now(), absl::UTCTimeZone()), ".txt");
  }
  auto daemon = Connection::Open(globals);
  std::string text = OwnSide(globals, daemon);
  std::string problem = daemon.ok() ? "" : std::string(daemon.status().message());
  if (daemon.ok()) {
    if (const grpc::Status status = DaemonSide(**daemon, text); !status.ok())
      problem = status.error_message();
  }
  if (!problem.empty()) text += Section("daemon", absl::StrCat("no answer: ", problem));
  if (absl::Status status = Write(path, text); !status.ok())
    return Complain(status, "keepstep bundle OTHER.txt");
  if (path == "-") return 0;
  if (globals.json) {
    printf("%s\n", nlohmann::json({{"file", path}, {"bytes", text.size()}}).dump().c_str());
  } else {
    printf("%s: %s. Read it before you send it: it names jobs, directories, hosts and users.\n", path.c_str(),
           HumanBytes(static_cast<int64_t>(text.size())).c_str());
  }
  return 0;
}

}  // namespace

void AddBundle(Program& program) {
  auto path = std::make_shared<std::string>();
  auto* bundle = program.Add(kRun, "bundle", "One text file for a bug report, without secrets",
                             [&program, path] { return RunBundle(program.globals(), *path); });
  bundle->add_option("FILE", *path, "Where to write it; - for stdout (default: keepstep-bundle-TIME.txt)");
}

}  // namespace keepstep::client
