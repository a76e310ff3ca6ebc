// What only the command can check: whether this user, on this side of the socket, gets through.

#ifndef KEEPSTEP_CLIENT_COMMAND_CLIENT_CHECKS_H_
#define KEEPSTEP_CLIENT_COMMAND_CLIENT_CHECKS_H_

#include "absl/status/statusor.h"
#include "client/command/connection.h"
#include "proto/node.pb.h"

namespace keepstep::client {

// Adds the checks of this side. `daemon`: the connection, or why there is none.
void CheckClient(const Globals& globals, const absl::StatusOr<std::unique_ptr<Connection>>& daemon,
                 v1::DoctorResponse& checks);

// As the table that doctor prints, and bundles hold.
std::string ChecksText(const v1::DoctorResponse& checks);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_CLIENT_CHECKS_H_
