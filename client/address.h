// Where a daemon listens.

#ifndef KEEPSTEP_CLIENT_ADDRESS_H_
#define KEEPSTEP_CLIENT_ADDRESS_H_

#include <string>

#include "absl/status/status.h"
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

// $KEEPSTEP_ADDR, else keepstep.sock in $XDG_RUNTIME_DIR/keepstep, /tmp/keepstep-UID, or /run/keepstep: the
// first where somebody listens, else the first that exists, else the last. Folders of other users, but for
// /run's, do not count.
std::string DefaultAddress();

// Where a daemon of this user's own listens: $XDG_RUNTIME_DIR/keepstep, where that is unset or cannot be
// written (for root: nor can /run/keepstep) /tmp/keepstep-UID. Nothing is made. PERMISSION_DENIED
// (NOT_PRIVATE): what is there is not this user's alone.
absl::StatusOr<std::string> OwnFolder();

// PERMISSION_DENIED (NOT_PRIVATE) where `folder` is there and is no directory of this user's alone.
absl::Status CheckOwn(const std::string& folder);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_ADDRESS_H_
