// keepstepd: flags, start, one ready line on stdout, SIGTERM → drain → exit.

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "daemon/daemon.h"
#include "daemon/version.h"

namespace {

using keepstep::daemon::Daemon;
using keepstep::daemon::DaemonSpec;
using Engine = keepstep::storage::IoEngineOptions::Kind;

std::string FromEnvironment(const char* name, const char* rest) {
  const char* value = getenv(name);
  return value == nullptr || *value == '\0' ? std::string() : std::string(value) + rest;
}

std::string DefaultSocketDirectory() {
  std::string own = FromEnvironment("XDG_RUNTIME_DIR", "/keepstep");
  return own.empty() || geteuid() == 0 ? "/run/keepstep" : own;
}

std::string DefaultStateDirectory() {
  if (geteuid() == 0) return "/var/lib/keepstep";
  std::string own = FromEnvironment("XDG_STATE_HOME", "/keepstep");
  return own.empty() ? FromEnvironment("HOME", "/.local/state/keepstep") : own;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "keepstepd keeps training checkpoints: trainers hand their tensors over, it makes them durable.");
  DaemonSpec spec{.socket_directory = DefaultSocketDirectory(), .state_directory = DefaultStateDirectory()};
  std::string engine = "auto";
  int64_t drain_seconds = 120;
  bool log_json = false;
  app.set_version_flag("--version", keepstep::daemon::kVersion);
  app.add_option("--socket-dir", spec.socket_directory, "Where the sockets are")->capture_default_str();
  app.add_option("--state-dir", spec.state_directory, "Catalog, journal, spool")->capture_default_str();
  app.add_option("--root", spec.roots,
                 "A directory of jobs that callers without a session may reach (repeatable)");
  app.add_option("--pool-bytes", spec.pool_bytes, "Most staging memory; 0: a quarter of the machine's")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--io-engine", engine, "auto, uring or threads")
      ->check(CLI::IsMember({"auto", "uring", "threads"}))
      ->capture_default_str();
  app.add_option("--drain-seconds", drain_seconds, "What saves in flight get after SIGTERM")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--log-json", log_json, "Log lines as JSON");
  CLI11_PARSE(app, argc, argv);
  const std::map<std::string, Engine> engines = {
      {"auto", Engine::kAuto}, {"uring", Engine::kUring}, {"threads", Engine::kThreads}};
  spec.io_engine = engines.at(engine);
  if (log_json) spec.log_format = keepstep::daemon::Log::Format::kJson;

  sigset_t signals;  // blocked before any thread starts, so that only sigwait takes them
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  auto daemon = Daemon::Start(spec);
  if (!daemon.ok()) {
    fprintf(stderr, "keepstepd: %s\n", std::string(daemon.status().message()).c_str());
    return 1;
  }
  printf("keepstepd %s ready on %s\n", keepstep::daemon::kVersion, (*daemon)->address().c_str());
  fflush(stdout);
  int received = 0;
  sigwait(&signals, &received);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);  // a second one ends it at once
  const int32_t undecided = (*daemon)->Drain(std::chrono::seconds(drain_seconds));
  if (undecided > 0)
    fprintf(stderr, "keepstepd: %d saves stay undecided; the next start settles them\n", undecided);
  return 0;
}
