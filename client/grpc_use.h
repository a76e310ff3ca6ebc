// gRPC of this process for as long as clients use it, and nobody's afterwards.
//
// A child that is forked while gRPC is initialized has its state without its threads: whatever it calls waits for ever. So
// gRPC is down when the last client is closed, and a child that was forked before that is refused.

#ifndef KEEPSTEP_CLIENT_GRPC_USE_H_
#define KEEPSTEP_CLIENT_GRPC_USE_H_

#include "absl/status/status.h"

namespace keepstep::client {

// One client's share. Made before anything of gRPC's, destroyed after all of it, in one process.
class GrpcUse {
 public:
  // FAILED_PRECONDITION (FORKED): this process was forked while its parent had a client, or used gRPC besides.
  static absl::Status Check();

  GrpcUse();
  // The last one returns when gRPC is down. What gRPC's own threads still let go of is waited for up to a second, unless
  // somebody else in this process used gRPC before.
  ~GrpcUse();
  GrpcUse(const GrpcUse&) = delete;
  GrpcUse& operator=(const GrpcUse&) = delete;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_GRPC_USE_H_
