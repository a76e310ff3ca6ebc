// Whether GPU memory is mapped, and by which workers; what of it the daemon owns, and keeps for trainers that died.

#include "absl/strings/str_cat.h"
#include "daemon/device/device_hub.h"
#include "daemon/device/owned_memory.h"
#include "daemon/device/worker.h"
#include "daemon/doctor.h"
#include "daemon/kept_worlds.h"

namespace keepstep::daemon {
namespace {

void CheckPool(const ServerState& state, v1::DoctorResponse& response) {
  if (state.owned->limit_bytes() == 0) {
    AddCheck(response, "GPU pool", v1::Check::OK, "none (gpu_pool.bytes): no trainer restarts without a load");
    return;
  }
  const auto owned = state.owned->used_bytes_by_gpu(), kept = state.kept->bytes_by_gpu();
  std::string found = absl::StrCat("at most ", HumanBytes(state.owned->limit_bytes()),
                                   " of each GPU; what trainers leave that die is kept for at most ",
                                   DurationText(state.kept->hold().count()));
  for (const auto& [gpu, bytes] : owned) {
    const auto of_dead = kept.find(gpu);
    absl::StrAppend(&found, "; ", GpuName(gpu), ": ", HumanBytes(bytes), " owned, ",
                    HumanBytes(of_dead == kept.end() ? 0 : of_dead->second), " of it kept");
  }
  AddCheck(response, "GPU pool", v1::Check::OK, owned.empty() ? found + "; none is owned now" : found);
}

}  // namespace

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
  CheckPool(state, response);
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
