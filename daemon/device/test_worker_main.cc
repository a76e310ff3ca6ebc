// The worker as a program of its own, for tests: what keepstepd is with --device-worker.

#include "daemon/device/worker.h"
#include "daemon/device/worker_protocol.h"

int main() { return keepstep::daemon::RunDeviceWorker(keepstep::daemon::kWorkerSocketFd); }
