#include "daemon/logic/outbox.h"

namespace keepstep::daemon {

void Outbox::Store(storage::StoreOp what, Owner owner,
                   std::function<void(const storage::StoreResult&)> then) {
  const uint64_t op = ++last_op_;
  store_.emplace(op, Waiting<storage::StoreResult>{std::move(owner), std::move(then)});
  Emit(DoStore{op, std::move(what)});
}

void Outbox::At(Millis when, Owner owner, std::function<void()> then) {
  timers_.emplace(when, Timer{std::move(owner), std::move(then)});
}

void Outbox::OnStoreDone(const StoreDone& done) {
  auto waiting = store_.extract(done.op);
  if (waiting.empty()) return;
  if (auto alive = waiting.mapped().owner.lock()) waiting.mapped().then(done.result);
}

void Outbox::OnCatalogDone(const CatalogDone& done) {
  auto waiting = catalog_.extract(done.op);
  if (waiting.empty()) return;
  if (auto alive = waiting.mapped().owner.lock()) waiting.mapped().then(done.status);
}

void Outbox::Advance(Millis now) {
  now_ = now;
  // A timer set while timers run is due in a later event: a delay of 0 cannot loop.
  std::vector<Timer> due;
  while (!timers_.empty() && timers_.begin()->first <= now) {
    due.push_back(std::move(timers_.begin()->second));
    timers_.erase(timers_.begin());
  }
  for (Timer& timer : due) {
    if (auto alive = timer.owner.lock()) timer.then();
  }
}

}  // namespace keepstep::daemon
