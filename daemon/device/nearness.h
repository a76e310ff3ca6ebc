// A device worker's place on a machine of several NUMA nodes: where its GPU is.

#ifndef KEEPSTEP_DAEMON_DEVICE_NEARNESS_H_
#define KEEPSTEP_DAEMON_DEVICE_NEARNESS_H_

#include <string>

#include "daemon/host_nodes.h"
#include "third_party/cuda_driver/cuda_driver.h"

namespace keepstep::daemon {

struct Nearness {
  int node = kAnyNode;        // whose memory is near the GPU, where there are several to choose from
  std::string why_elsewhere;  // why the process may run on other nodes too; empty: it does not, or need not
};

// Asks the driver which node the GPU is near, or sysfs where the driver does not know, and lets this process run there
// alone, as far as it may.
Nearness StayNear(const cuda::Driver& driver, CUdevice device, const std::string& sysfs);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_NEARNESS_H_
