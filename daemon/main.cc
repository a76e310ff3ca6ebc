// keepstepd: configuration, start, one ready line on stdout; SIGHUP → reload; SIGTERM → drain → exit. A
// service manager is told of each.

#include <pthread.h>
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <utility>

#include "daemon/config_source.h"
#include "daemon/daemon.h"
#include "daemon/device/probe_protocol.h"
#include "daemon/device/worker.h"
#include "daemon/device/worker_protocol.h"
#include "daemon/idle_exit.h"
#include "daemon/notify.h"
#include "daemon/read_only.h"
#include "daemon/reload.h"
#include "daemon/scheduling.h"
#include "daemon/version.h"

namespace {

using keepstep::daemon::Config;
using keepstep::daemon::ConfigSource;
using keepstep::daemon::Daemon;
using keepstep::daemon::Notifier;
using keepstep::daemon::WatchdogFeeder;

int Fail(const absl::Status& status) {
  fprintf(stderr, "keepstepd: %s\n", std::string(status.message()).c_str());
  return 1;
}

// Blocked before any thread starts, so that only sigwait takes them.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signals;
}

int Serve(const ConfigSource& source, Config config) {
  const sigset_t signals = BlockSignals();
  keepstep::daemon::SetTimeSlice(keepstep::daemon::kAnswerSliceNs);  // before any thread starts
  auto daemon = Daemon::Start(config.daemon);
  if (!daemon.ok()) return Fail(daemon.status());
  if (const std::string http = (*daemon)->http_address(); !http.empty())
    printf("keepstepd serves %s\n", http.c_str());
  printf("keepstepd %s ready on %s\n", keepstep::daemon::kVersion, (*daemon)->address().c_str());
  fflush(stdout);
  const Notifier notifier = Notifier::FromEnvironment();
  const std::string serving = "serves " + (*daemon)->address();
  notifier.Ready(serving);
  const WatchdogFeeder feeder(&notifier, [&] { return (*daemon)->alive(); });
  int received = 0;
  const auto await = [&] {
    return keepstep::daemon::AwaitSignal(signals, std::chrono::milliseconds(config.exit_idle_ms),
                                         [&] { return (*daemon)->in_use(); });
  };
  while ((received = await()) == SIGHUP) {
    notifier.Reloading();
    config = keepstep::daemon::Reload(source, config, **daemon);
    notifier.Ready(serving);
  }
  if (received == 0) (*daemon)->log().Info("nobody has needed this daemon for long: it ends (exit.idle)");
  notifier.Stopping("draining: saves in flight are finished");
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);  // a second one ends it at once
  const int32_t undecided = (*daemon)->Drain(std::chrono::milliseconds(config.drain_ms));
  if (undecided > 0)
    fprintf(stderr, "keepstepd: %d saves stay undecided; the next start settles them\n", undecided);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == keepstep::daemon::kWorkerFlag)
    return keepstep::daemon::RunDeviceWorker(keepstep::daemon::kWorkerSocketFd);
  if (argc == 2 && std::string(argv[1]) == keepstep::daemon::kProbeFlag)
    return keepstep::daemon::RunDeviceProbe(keepstep::daemon::kWorkerSocketFd);
  const auto parsed = ConfigSource::FromCommandLine(argc, argv);
  if (const int* status = std::get_if<int>(&parsed)) return *status;
  const ConfigSource& source = std::get<ConfigSource>(parsed);
  if (source.action() == ConfigSource::Action::kLook)
    return keepstep::daemon::ServeReadOnly(source.root_flags());
  const auto effective = source.Load();
  if (!effective.ok()) return Fail(effective.status());
  switch (source.action()) {
    case ConfigSource::Action::kPrint:
      fputs(keepstep::daemon::PrintConfig(*effective).c_str(), stdout);
      return 0;
    case ConfigSource::Action::kCheck:
      printf("keepstepd: %s: the configuration is valid\n",
             source.File().empty() ? "no file" : source.File().c_str());
      return 0;
    case ConfigSource::Action::kLook:  // above
    case ConfigSource::Action::kRun: {
      Config config = effective->config;
      config.daemon.config_text = keepstep::daemon::PrintConfig(*effective);
      return Serve(source, std::move(config));
    }
  }
  return 1;
}
