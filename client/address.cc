#include "client/address.h"

#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/failure.h"
#include "proto/handoff.h"

namespace keepstep::client {

absl::StatusOr<Address> ParseAddress(absl::string_view text) {
  absl::string_view path = text;
  if (!absl::ConsumePrefix(&path, "unix://")) absl::ConsumePrefix(&path, "unix:");
  if (!absl::StartsWith(path, "/") || absl::EndsWith(path, "/")) {
    return MakeError(
        absl::StatusCode::kInvalidArgument, "BAD_ADDRESS",
        absl::StrCat("\"", text, "\" is no address of a daemon: write unix:///run/keepstep/keepstep.sock"));
  }
  const absl::string_view folder = path.substr(0, path.rfind('/') + 1);
  Address address{.grpc_path = std::string(path),
                  .handoff_path = absl::StrCat(folder, proto::kHandoffSocketName)};
  constexpr size_t kMaxPathBytes = sizeof(sockaddr_un::sun_path) - 1;
  if (address.grpc_path.size() > kMaxPathBytes || address.handoff_path.size() > kMaxPathBytes) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ADDRESS",
                     absl::StrCat(text, " is longer than the ", kMaxPathBytes,
                                  " bytes that a Unix socket's path may have"));
  }
  return address;
}

std::string DefaultAddress() {
  if (const char* address = std::getenv("KEEPSTEP_ADDR"); address != nullptr && *address != '\0')
    return address;
  const std::string system = absl::StrCat("/run/keepstep/", proto::kGrpcSocketName);
  if (const char* runtime = std::getenv("XDG_RUNTIME_DIR"); runtime != nullptr && *runtime == '/') {
    const std::string own = absl::StrCat(runtime, "/keepstep/", proto::kGrpcSocketName);
    if (access(own.c_str(), F_OK) == 0) return absl::StrCat("unix://", own);
  }
  return absl::StrCat("unix://", system);
}

}  // namespace keepstep::client
