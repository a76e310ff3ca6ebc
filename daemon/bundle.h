// The daemon's side of a bug report, as plain text in sections.
//
// What goes in: version, status, problems, doctor's checks, the newest log lines, and for the operator the
// configuration in effect, this process's limits and memory, and its mounts. Only what the caller may see
// anyway. What does not: environment, tokens, contents of tensors, extras or metrics, other users' jobs.
// Values of configuration keys that could be secrets are left out by name. Bounded: a section is cut at
// kBundleSectionBytes.

#ifndef KEEPSTEP_DAEMON_BUNDLE_H_
#define KEEPSTEP_DAEMON_BUNDLE_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "daemon/client_session.h"
#include "daemon/server_state.h"
#include "proto/node.pb.h"

namespace keepstep::daemon {

inline constexpr size_t kBundleSectionBytes = 1 << 20;

// Calls `take` for each section, in order, until it fails. Blocks for the jobs and their storage.
absl::Status MakeBundle(const ServerState& state, const std::shared_ptr<ClientSession>& session,
                        const v1::StatusResponse& status,
                        const std::function<absl::Status(std::string)>& take);

// `config` without the values of keys whose names speak of secrets.
std::string WithoutSecrets(const std::string& config);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_BUNDLE_H_
