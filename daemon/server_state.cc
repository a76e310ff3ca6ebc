#include "daemon/server_state.h"

#include <unistd.h>

#include "daemon/error.h"
#include "proto/handoff.h"

namespace keepstep::daemon {
namespace {

absl::Status Unauthenticated(absl::string_view message) {
  return MakeError(absl::StatusCode::kUnauthenticated, "NO_SESSION", message);
}

}  // namespace

absl::StatusOr<std::shared_ptr<ClientSession>> OptionalSession(const ServerState& state,
                                                               const grpc::CallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  const auto token = metadata.find(proto::kTokenMetadataKey);
  if (token == metadata.end()) return std::shared_ptr<ClientSession>();
  auto session = state.sessions->ByToken(absl::string_view(token->second.data(), token->second.size()));
  if (session == nullptr) {
    return Unauthenticated(
        "The session is not known here: it is over, or the daemon has restarted. Shake hands again.");
  }
  return session;
}

absl::StatusOr<std::shared_ptr<ClientSession>> RequireSession(const ServerState& state,
                                                              const grpc::CallbackServerContext& context) {
  auto session = OptionalSession(state, context);
  if (session.ok() && *session == nullptr) {
    return Unauthenticated("This call needs the token of a session, as metadata keepstep-token.");
  }
  return session;
}

absl::Status RequireWritable(const ServerState& state) {
  if (!state.read_only) return absl::OkStatus();
  return MakeError(absl::StatusCode::kFailedPrecondition, "READ_ONLY",
                   "This keepstepd only looks: it was started for --root. Ask the daemon that the trainers use, "
                   "without --root.");
}

bool IsOperator(const ClientSession* session) {
  return session != nullptr && (session->peer().uid == 0 || session->peer().uid == geteuid());
}

absl::StatusOr<std::shared_ptr<ClientSession>> RequireMember(const ServerState& state,
                                                             const grpc::CallbackServerContext& context) {
  auto session = RequireSession(state, context);
  if (session.ok() && !(*session)->membership().has_value()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NOT_OPEN", "Call Open first.");
  }
  return session;
}

}  // namespace keepstep::daemon
