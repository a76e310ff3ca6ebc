// Where the kernel puts memory that has not been touched yet.

#ifndef KEEPSTEP_DAEMON_PREFER_NODE_H_
#define KEEPSTEP_DAEMON_PREFER_NODE_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace keepstep::daemon {

// Pages of `range` (whole ones) that are made from now on come from `node` while it has memory, else from others;
// kAnyNode: as the kernel does by itself. Of shared memory that holds in every process that has it mapped, and goes on
// holding when pages are given back. PERMISSION_DENIED, as many containers have it; UNIMPLEMENTED: a kernel without
// NUMA; INVALID_ARGUMENT: a node without memory, or one that this process may not use; RESOURCE_EXHAUSTED: too many
// ranges with policies of their own.
absl::Status PreferNode(absl::Span<std::byte> range, int node);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_PREFER_NODE_H_
