// What is, as metrics: read at each scrape, never counted along the way.

#ifndef KEEPSTEP_DAEMON_STATE_COLLECTOR_H_
#define KEEPSTEP_DAEMON_STATE_COLLECTOR_H_

#include <prometheus/metric_family.h>

#include <vector>

#include "daemon/server_state.h"
#include "daemon/viewer.h"

namespace keepstep::daemon {

// Ages of last commits name only jobs that `viewer` may see, and kMaxNamedJobs at most; all else counts every
// job. Does not block.
inline constexpr size_t kMaxNamedJobs = 256;
std::vector<prometheus::MetricFamily> CollectState(const ServerState& state, const Viewer& viewer);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_STATE_COLLECTOR_H_
