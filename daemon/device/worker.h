// The device worker: a process of its own for one GPU, because of what CUDA does to processes: an error can leave a
// context of no more use, and a driver call can hang.

#ifndef KEEPSTEP_DAEMON_DEVICE_WORKER_H_
#define KEEPSTEP_DAEMON_DEVICE_WORKER_H_

#include <string>

namespace keepstep::daemon {

// Serves the daemon at the other end of `socket_fd` until that closes or an error is fatal. Returns the process's exit
// status. Ends with the daemon that started it. `sysfs`: where that is mounted (daemon/host_nodes.h).
int RunDeviceWorker(int socket_fd, const std::string& sysfs = "/sys");

// The child of a probe (exporter_probe.h) with the daemon at the other end of `socket_fd`: exports memory, then waits to be
// killed. Returns, if it does, the process's exit status.
int RunDeviceProbe(int socket_fd);

// What this build and this machine have of CUDA: "driver 13.0", or why there is none. Loads the driver, runs none of it.
std::string DescribeDriver();

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_WORKER_H_
