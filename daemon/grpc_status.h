// An error as gRPC callers get it: canonical code, a sentence, and google.rpc.Status details with one
// ErrorInfo.

#ifndef KEEPSTEP_DAEMON_GRPC_STATUS_H_
#define KEEPSTEP_DAEMON_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace keepstep::daemon {

grpc::Status ToGrpc(const absl::Status& status);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_GRPC_STATUS_H_
