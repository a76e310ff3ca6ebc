// The worker, and the child of a probe, as a program of its own, for tests: what keepstepd is with their flags. An
// argument that is no flag is a folder in place of /sys.

#include <cstring>

#include "daemon/device/probe_protocol.h"
#include "daemon/device/worker.h"
#include "daemon/device/worker_protocol.h"

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], keepstep::daemon::kProbeFlag) == 0)
    return keepstep::daemon::RunDeviceProbe(keepstep::daemon::kWorkerSocketFd);
  return keepstep::daemon::RunDeviceWorker(keepstep::daemon::kWorkerSocketFd, argc > 1 ? argv[1] : "/sys");
}
