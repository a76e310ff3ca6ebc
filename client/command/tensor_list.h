// Every tensor of a checkpoint, however many pages that takes.

#ifndef KEEPSTEP_CLIENT_COMMAND_TENSOR_LIST_H_
#define KEEPSTEP_CLIENT_COMMAND_TENSOR_LIST_H_

#include <string>

#include "client/command/connection.h"
#include "client/command/names.h"
#include "proto/checkpoints.pb.h"

namespace keepstep::client {

// Those whose names begin with `prefix`; `step` says what "latest" was.
grpc::Status ListTensors(const Connection& daemon, const Name& name, const std::string& prefix,
                         v1::QueryTensorsResponse* all);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_TENSOR_LIST_H_
