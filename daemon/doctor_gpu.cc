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
    absl::StrAppend(&found, "; ", GpuName(worker.gpu), " by process ", worker.pid,
                    worker.node == kAnyNode ? "" : absl::StrCat(", near ", NodeName(worker.node)));
  AddCheck(response, "gpu", v1::Check::OK, found);
  std::string rescue;
  bool passed = true;
  for (const DeviceHub::Probed& probe : state.devices->probed()) {
    passed &= probe.result.ok();
    absl::StrAppend(&rescue, rescue.empty() ? "" : "; ",
                    probe.result.ok() ? absl::StrCat("memory of ", GpuName(probe.gpu), " by ",
                                                     probe.kind == HandleKind::kIpc ? "ipc" : "vmm",
                                                     " outlives its process")
                                      : std::string(probe.result.message()));
  }
  AddCheck(response, "crash flush", passed ? v1::Check::OK : v1::Check::WARNING,
           rescue.empty() ? "no trainer has asked for it since the daemon's start" : rescue);
}

}  // namespace keepstep::daemon
