// Answers Checkpoints.QueryTensors from an indexed checkpoint. Pure.

#ifndef KEEPSTEP_DAEMON_QUERY_TENSORS_H_
#define KEEPSTEP_DAEMON_QUERY_TENSORS_H_

#include "absl/status/status.h"
#include "daemon/stored_checkpoint.h"
#include "proto/checkpoints.pb.h"

namespace keepstep::daemon {

// INVALID_ARGUMENT: a bad box, shard or page size; errors of MakeLoadPlan for `wanted`.
absl::Status QueryTensors(const StoredCheckpoint& from, const v1::QueryTensorsRequest& request,
                          v1::QueryTensorsResponse& response);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_QUERY_TENSORS_H_
