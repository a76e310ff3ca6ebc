// One rank's load: which registered tensors, from which stored ones, then the pipeline, then the report.

#ifndef KEEPSTEP_DAEMON_LOADS_H_
#define KEEPSTEP_DAEMON_LOADS_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "daemon/cancellation.h"
#include "daemon/checkpoint_cache.h"
#include "daemon/client_session.h"
#include "daemon/data_plane.h"
#include "daemon/load_meter.h"
#include "proto/sessions.pb.h"

namespace keepstep::daemon {

// Fills what `request` selects of `registration`. Blocks. NOT_FOUND (MISSING_TENSORS, each with the closest
// stored name), FAILED_PRECONDITION (SHAPE_MISMATCH: other shape or dtype; MISSING_COVERAGE: holes),
// INVALID_ARGUMENT (a rename of a name that is not registered, a conversion that is not supported), errors of
// RunLoad.
absl::StatusOr<v1::LoadReport> LoadRank(DataPlane& plane, const FoundCheckpoint& from,
                                        const Registration& registration, std::shared_ptr<MemoryPort> port,
                                        const v1::LoadRequest& request,
                                        std::function<void(int64_t done, int64_t total)> progress,
                                        LoadMeter& meter, Cancellation& cancel);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOADS_H_
