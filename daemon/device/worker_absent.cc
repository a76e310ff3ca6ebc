// For a build without CUDA's headers.

#include <cstdio>

#include "daemon/device/worker.h"

namespace keepstep::daemon {

int RunDeviceWorker(int, const std::string&) {
  fputs("keepstepd: this build has no GPU support: it was made without CUDA's headers\n", stderr);
  return 1;
}

int RunDeviceProbe(int) { return RunDeviceWorker(0, ""); }

std::string DescribeDriver() { return "built without CUDA's headers"; }

}  // namespace keepstep::daemon
