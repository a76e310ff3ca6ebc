// gRPC's status with the reason, stage and rank that the daemon packs into its details, as the client's own
// error.

#ifndef KEEPSTEP_CLIENT_GRPC_STATUS_H_
#define KEEPSTEP_CLIENT_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace keepstep::client {

// What BlameOf (client/failure.h) reads. gRPC's own errors have no reason.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_GRPC_STATUS_H_
