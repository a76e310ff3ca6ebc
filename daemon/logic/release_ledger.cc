#include "daemon/logic/release_ledger.h"

namespace keepstep::daemon {

void ReleaseLedger::Begin(uint64_t number) { open_.try_emplace(number); }

std::vector<Release> ReleaseLedger::GroupDone(SessionId session, uint64_t number, uint32_t group) {
  auto entry = open_.find(number);
  if (entry == open_.end()) return {};
  entry->second.done.insert(group);
  return Settle(session);
}

std::vector<Release> ReleaseLedger::AllDone(SessionId session, uint64_t number) {
  auto entry = open_.find(number);
  if (entry == open_.end()) return {};
  entry->second.all = true;
  return Settle(session);
}

void ReleaseLedger::ReleasedUpTo(uint64_t number) { open_.erase(open_.begin(), open_.upper_bound(number)); }

std::vector<Release> ReleaseLedger::Settle(SessionId session) {
  std::vector<Release> releases;
  while (!open_.empty() && open_.begin()->second.all) {
    releases.push_back({.session = session, .number = open_.begin()->first, .all_groups = true});
    open_.erase(open_.begin());
  }
  for (auto entry = open_.begin(); entry != open_.end(); ++entry) {
    for (uint32_t group : entry->second.done) {
      if (entry->second.released.contains(group)) continue;
      bool earlier_done = true;
      for (auto earlier = open_.begin(); earlier != entry; ++earlier) {
        earlier_done = earlier_done && (earlier->second.all || earlier->second.done.contains(group));
      }
      if (!earlier_done) continue;
      entry->second.released.insert(group);
      releases.push_back({.session = session, .number = entry->first, .group = group});
    }
  }
  return releases;
}

}  // namespace keepstep::daemon
