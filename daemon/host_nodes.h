// The NUMA nodes of this machine, as sysfs tells of them: which processors, memory and devices are near each other.
//
// `sysfs` is where that file system is mounted, "/sys". What cannot be read is not known, and no error.

#ifndef KEEPSTEP_DAEMON_HOST_NODES_H_
#define KEEPSTEP_DAEMON_HOST_NODES_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace keepstep::daemon {

// In place of a node's number: it is not known, or makes no difference.
inline constexpr int kAnyNode = -1;

// "node 1", or "any node".
std::string NodeName(int node);

// "0-3,8-11\n", as the kernel writes a set of processors or nodes, ascending. Nothing for what is no such list, or goes
// beyond 65,535.
std::optional<std::vector<int>> ParseNumbers(absl::string_view text);

// `node` where it is one of several nodes with memory, else kAnyNode: with one node there is nothing to choose.
int NodeToChoose(const std::string& sysfs, int node);

// The node that a device is near, by its PCI address ("0000:3b:00.0").
int NodeOfPciDevice(const std::string& sysfs, const std::string& address);

// Lets every thread of this process run on the node's processors alone, of those that it may use now. Threads that
// are started later inherit it. NOT_FOUND: it may use none of them; errors of sched_setaffinity. Then nothing, or not
// every thread, has changed.
absl::Status StayOnNode(const std::string& sysfs, int node);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_HOST_NODES_H_
