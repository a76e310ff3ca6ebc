// Which groups of one session may change again, for which of its saves.
//
// Invariant: Release(number n, group g) is said only when every save of this session numbered <= n no longer
// needs g's content, because a page holds one number per group and a client compares it with its newest save.
// With two saves in flight the later one's group may be copied first: its release is held until the earlier
// one's.

#ifndef KEEPSTEP_DAEMON_LOGIC_RELEASE_LEDGER_H_
#define KEEPSTEP_DAEMON_LOGIC_RELEASE_LEDGER_H_

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "daemon/logic/events.h"

namespace keepstep::daemon {

class ReleaseLedger {
 public:
  // The session issued save `number`; its groups are gated from now on.
  void Begin(uint64_t number);

  // A group of save `number` has been copied. Returns what may be released now.
  std::vector<Release> GroupDone(SessionId session, uint64_t number, uint32_t group);

  // Save `number` no longer needs anything: copied, refused or over. Says so once per number.
  std::vector<Release> AllDone(SessionId session, uint64_t number);

  // A resumed session's page starts released up to `number`.
  void ReleasedUpTo(uint64_t number);

 private:
  struct Entry {
    bool all = false;
    std::set<uint32_t> done;      // groups that this save no longer needs
    std::set<uint32_t> released;  // of those, already said
  };

  std::vector<Release> Settle(SessionId session);

  std::map<uint64_t, Entry> open_;  // not yet released as a whole
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_RELEASE_LEDGER_H_
