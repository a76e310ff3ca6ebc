// The ranks of the current epoch: who belongs to it (the roster) and who is connected (the sessions).
//
// Invariant: a session's rank is in the roster with the session's nonce; a rank has at most one session.

#ifndef KEEPSTEP_DAEMON_LOGIC_WORLD_H_
#define KEEPSTEP_DAEMON_LOGIC_WORLD_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "daemon/logic/events.h"
#include "daemon/logic/release_ledger.h"

namespace keepstep::daemon {

struct LoadedStep {
  bool found = false;  // false: there was nothing to load
  int64_t step = 0;
  std::string attempt;
};

struct Session {
  SessionId id = 0;
  int32_t rank = 0;
  Nonce nonce{};
  std::optional<Millis> lost_since;  // its stream is gone, its process is not known to be
  bool kept = false;                 // its process is gone, its memory is not (SessionKept)
  std::optional<LoadedStep> loaded;  // in this epoch
  bool saved = false;                // in this epoch
  uint64_t last_number = 0;          // newest save asked for
  uint64_t generation = 0;
  std::string fingerprint;  // of its registration; empty: none
  ReleaseLedger releases;
};

struct World {
  int64_t epoch = 0;
  int32_t size = 0;
  bool roster_known = true;  // false: the catalog was lost, so every rank counts as present
  std::map<int32_t, Nonce> roster;
  RetentionPolicy retention;  // every rank of the epoch asked for the same
  std::map<SessionId, Session> sessions;

  Session* Find(SessionId id) {
    auto found = sessions.find(id);
    return found == sessions.end() ? nullptr : &found->second;
  }
  Session* OfRank(int32_t rank) {
    for (auto& [id, session] : sessions) {
      if (session.rank == rank) return &session;
    }
    return nullptr;
  }
  std::vector<int32_t> MissingRanks() const {
    std::vector<bool> present(size);
    for (const auto& [id, session] : sessions) present[session.rank] = true;
    std::vector<int32_t> missing;
    for (int32_t rank = 0; rank < size; ++rank) {
      if (!present[rank]) missing.push_back(rank);
    }
    return missing;
  }
  bool AnyKept() const {
    return std::any_of(sessions.begin(), sessions.end(), [](const auto& one) { return one.second.kept; });
  }
  // Every rank is dead and its memory kept: a rescue may be made.
  bool AllKept() const {
    return Complete() &&
           std::all_of(sessions.begin(), sessions.end(), [](const auto& one) { return one.second.kept; });
  }
  bool Complete() const { return size > 0 && static_cast<int32_t>(sessions.size()) == size; }
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_WORLD_H_
