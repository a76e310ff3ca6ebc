#include "daemon/prefer_node.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "daemon/host_nodes.h"

namespace keepstep::daemon {
namespace {

constexpr int kMostNodes = 1024;  // the kernel is built for no more
constexpr int kWordBits = CHAR_BIT * sizeof(unsigned long);

}  // namespace

absl::Status PreferNode(absl::Span<std::byte> range, int node) {
  if (node >= kMostNodes) return absl::InvalidArgumentError(absl::StrCat("no kernel has a node ", node));
  std::array<unsigned long, kMostNodes / kWordBits> nodes{};
  int mode = MPOL_DEFAULT;
  if (node != kAnyNode) {
    mode = MPOL_PREFERRED;
    nodes[node / kWordBits] = 1UL << (node % kWordBits);
  }
  // The kernel counts one bit less than it is told.
  if (syscall(SYS_mbind, range.data(), range.size(), mode, nodes.data(), kMostNodes + 1, 0) == 0)
    return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("mbind to node ", node, ": ", strerror(errno)));
}

}  // namespace keepstep::daemon
