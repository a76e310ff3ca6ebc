// The sessions of this daemon by id and by token.
//
// Thread-safe.

#ifndef KEEPSTEP_DAEMON_SESSION_REGISTRY_H_
#define KEEPSTEP_DAEMON_SESSION_REGISTRY_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "daemon/client_session.h"

namespace keepstep::daemon {

class SessionRegistry {
 public:
  void Add(std::shared_ptr<ClientSession> session);
  // Null when there is none. A token is 128 random bits: it is its own proof.
  std::shared_ptr<ClientSession> ByToken(absl::string_view token) const;
  std::shared_ptr<ClientSession> ById(SessionId id) const;
  // Gives the session up and ends it with `why`. False when it is not there.
  bool Remove(SessionId id, absl::Status why);
  // Gives it up without ending it: whoever takes it ends it. Null: it is not there.
  std::shared_ptr<ClientSession> Take(SessionId id);
  std::vector<std::shared_ptr<ClientSession>> All() const;
  size_t size() const;
  // Of the newest registrations of all training ranks.
  struct Registered {
    int64_t total_bytes = 0;
    std::map<int, int64_t> near_bytes;  // of ranks whose GPU is near a NUMA node, by node
  };
  Registered registered() const;

 private:
  mutable std::mutex mutex_;
  absl::flat_hash_map<SessionId, std::shared_ptr<ClientSession>> by_id_;
  absl::flat_hash_map<std::string, SessionId> by_token_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_SESSION_REGISTRY_H_
