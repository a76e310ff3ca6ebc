// Where a daemon listens.

#ifndef KEEPSTEP_CLIENT_ADDRESS_H_
#define KEEPSTEP_CLIENT_ADDRESS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace keepstep::client {

struct Address {
  std::string grpc_path;     // of the gRPC socket
  std::string handoff_path;  // beside it
};

// `unix:///path/keepstep.sock`, `unix:/path` or an absolute path. INVALID_ARGUMENT for anything else: buffers
// cannot be handed over by TCP.
absl::StatusOr<Address> ParseAddress(absl::string_view text);

// $KEEPSTEP_ADDR, else $XDG_RUNTIME_DIR/keepstep/keepstep.sock, else /run/keepstep/keepstep.sock: the first
// that exists, else the last that could.
std::string DefaultAddress();

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_ADDRESS_H_
