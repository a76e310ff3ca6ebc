// A store script is a pure sequence of store operations with one outcome: it has
//   std::variant<storage::StoreOp, Outcome> Next(const storage::StoreResult* previous);
// as storage::CommitMachine. The first call passes null, each later one the result of the operation asked
// for.

#ifndef KEEPSTEP_DAEMON_LOGIC_STORE_SCRIPT_H_
#define KEEPSTEP_DAEMON_LOGIC_STORE_SCRIPT_H_

#include <memory>
#include <utility>
#include <variant>

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

// Delays of retries: doubled after each failure, bounded.
class Backoff {
 public:
  Backoff(Millis first, Millis most) : first_(first), most_(most), next_(first) {}
  Millis Next() { return std::exchange(next_, next_ * 2 < most_ ? next_ * 2 : most_); }
  void Reset() { next_ = first_; }

 private:
  Millis first_, most_, next_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_STORE_SCRIPT_H_
