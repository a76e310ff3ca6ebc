#include "daemon/read_only.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "daemon/daemon.h"
#include "daemon/idle_exit.h"
#include "daemon/version.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kPoolBytes = int64_t{256} << 20;

std::string MakePrivateDirectory() {
  const char* runtime = getenv("XDG_RUNTIME_DIR");
  std::string path =
      absl::StrCat(runtime == nullptr || *runtime != '/' ? "/tmp" : runtime, "/keepstep-look-XXXXXX");
  return mkdtemp(path.data()) == nullptr ? "" : path;
}

DaemonSpec SpecOf(const std::string& home, const std::vector<std::string>& roots) {
  DaemonSpec spec{.socket_directory = home, .state_directory = home, .roots = roots};
  spec.read_only = true;
  spec.pool_bytes = kPoolBytes;
  spec.threads = {.io = 4, .logic = 1, .calls = 8, .copy = 0};
  spec.log_level = Log::Level::kWarning;
  return spec;
}

}  // namespace

int ServeReadOnly(const std::vector<std::string>& roots) {
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  for (const std::string& root : roots) {
    if (std::error_code error; !std::filesystem::is_directory(root, error)) {
      fprintf(stderr, "keepstepd: root %s is no directory\n", root.c_str());
      return 1;
    }
  }
  const std::string home = MakePrivateDirectory();
  if (home.empty()) {
    fprintf(stderr, "keepstepd: cannot make a temporary directory: %s\n", strerror(errno));
    return 1;
  }
  auto daemon = Daemon::Start(SpecOf(home, roots));
  if (daemon.ok()) {
    printf("keepstepd %s ready on %s\n", kVersion, (*daemon)->address().c_str());
    fflush(stdout);
    AwaitSignal(signals, kIdle, [&] { return (*daemon)->in_use(); });
    *daemon = nullptr;
  } else {
    fprintf(stderr, "keepstepd: %s\n", std::string(daemon.status().message()).c_str());
  }
  std::error_code error;
  std::filesystem::remove_all(home, error);
  return daemon.ok() ? 0 : 1;
}

}  // namespace keepstep::daemon
