// Whether GPU memory is mapped, and by which workers.

#include "absl/strings/str_cat.h"
#include "daemon/device/device_hub.h"
#include "daemon/device/worker.h"
#include "daemon/doctor.h"

namespace keepstep::daemon {

void CheckGpu(const ServerState& state, v1::DoctorResponse& response) {
  if (state.devices == nullptr) {
    AddCheck(response, "gpu", v1::Check::OK, "GPU memory is not mapped (gpu: off, or a machine without a driver)");
    return;
  }
  std::string found = DescribeDriver();
  for (const DeviceHub::WorkerState& worker : state.devices->workers())
    absl::StrAppend(&found, "; ", GpuName(worker.gpu), " by process ", worker.pid);
  AddCheck(response, "gpu", v1::Check::OK, found);
}

}  // namespace keepstep::daemon
