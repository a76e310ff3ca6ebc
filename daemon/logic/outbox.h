// Where a job's machines put what they want done, and where the answers come back to them.
//
// Every operation with an answer gets an id that is never used again and a continuation that runs at most
// once, in the OnEvent call that brings the answer. An owner that is gone by then is skipped: late answers
// find nobody.

#ifndef KEEPSTEP_DAEMON_LOGIC_OUTBOX_H_
#define KEEPSTEP_DAEMON_LOGIC_OUTBOX_H_

#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "daemon/logic/events.h"

namespace keepstep::daemon {

// A machine holds the shared_ptr of its life; continuations hold this.
using Owner = std::weak_ptr<const void>;

class Outbox {
 public:
  void Emit(Action action) { actions_.push_back(std::move(action)); }

  void Store(storage::StoreOp what, Owner owner, std::function<void(const storage::StoreResult&)> then);

  // `action` is one of those that CatalogDone answers; its `op` is set here.
  template <class CatalogAction>
  void Catalog(CatalogAction action, Owner owner, std::function<void(const absl::Status&)> then) {
    action.op = ++last_op_;
    catalog_.emplace(action.op, Waiting<absl::Status>{std::move(owner), std::move(then)});
    Emit(std::move(action));
  }

  // Runs `then` in the first event at or after `when`.
  void At(Millis when, Owner owner, std::function<void()> then);

  // Answers of unknown operations are ignored.
  void OnStoreDone(const StoreDone& done);
  void OnCatalogDone(const CatalogDone& done);

  // Moves time on, runs what is due.
  void Advance(Millis now);
  Millis now() const { return now_; }

  std::vector<Action> Take() { return std::exchange(actions_, {}); }

 private:
  template <class Result>
  struct Waiting {
    Owner owner;
    std::function<void(const Result&)> then;
  };
  struct Timer {
    Owner owner;
    std::function<void()> then;
  };

  Millis now_ = 0;
  uint64_t last_op_ = 0;
  std::vector<Action> actions_;
  std::map<uint64_t, Waiting<storage::StoreResult>> store_;
  std::map<uint64_t, Waiting<absl::Status>> catalog_;
  std::multimap<Millis, Timer> timers_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_OUTBOX_H_
