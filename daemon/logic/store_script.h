// A store script is a pure sequence of store operations with one outcome: it has
//   std::variant<storage::StoreOp, Outcome> Next(const storage::StoreResult* previous);
// as storage::CommitMachine. The first call passes null, each later one the result of the operation asked
// for.

#ifndef KEEPSTEP_DAEMON_LOGIC_STORE_SCRIPT_H_
#define KEEPSTEP_DAEMON_LOGIC_STORE_SCRIPT_H_

#include <algorithm>
#include <memory>
#include <utility>
#include <variant>

#include "daemon/logic/limits.h"
#include "daemon/logic/outbox.h"

namespace keepstep::daemon {

// Runs `script` through the outbox; `done(outcome)` is called once, possibly within this call, never after
// `owner` died.
template <class Script, class Done>
void RunScript(Outbox& outbox, Owner owner, std::shared_ptr<Script> script, Done done,
               const storage::StoreResult* previous = nullptr) {
  auto next = script->Next(previous);
  if (auto* outcome = std::get_if<1>(&next)) {
    done(*outcome);
    return;
  }
  outbox.Store(std::move(std::get<0>(next)), owner,
               [&outbox, owner, script, done](const storage::StoreResult& result) {
                 RunScript(outbox, owner, script, done, &result);
               });
}

// Delays of retries: doubled after each failure, within what the limits say at that time.
class Backoff {
 public:
  explicit Backoff(const Limits& limits) : limits_(limits) {}  // outlives it
  // `no_room`: what failed lacked room on storage.
  Millis Next(bool no_room) {
    const Millis delay = std::min(std::max(next_, limits_.retry_first_ms), limits_.retry_most_ms);
    next_ = 2 * delay;
    return no_room ? std::min(delay, limits_.retry_no_room_ms) : delay;
  }
  void Reset() { next_ = 0; }

 private:
  const Limits& limits_;
  Millis next_ = 0;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_STORE_SCRIPT_H_
