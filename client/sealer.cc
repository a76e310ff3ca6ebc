#include "client/sealer.h"

#include "client/futex.h"
#include "client/thread.h"

namespace keepstep::client {

Sealer::Sealer(SaveLedger* ledger, const Limits& limits) : ledger_(ledger), limits_(limits) {
  thread_ = StartThread("ks-sealer", [this] { Run(); });
}

Sealer::~Sealer() {
  {
    std::lock_guard lock(mu_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
  if (ledger_->pages() != nullptr) ledger_->Advance();
}

void Sealer::Wake() {
  std::lock_guard lock(mu_);
  wake_.notify_all();
}

// False: stop.
bool Sealer::Sleep() {
  std::unique_lock lock(mu_);
  wake_.wait(lock, [&] { return stop_ || ledger_->Unsealed(); });
  return !stop_;
}

void Sealer::Run() {
  while (Sleep()) {
    const std::shared_ptr<SessionPages> pages = ledger_->pages();
    const uint32_t seen = pages->daemon().changes.load();
    ledger_->Advance();
    if (!ledger_->Unsealed()) continue;
    FutexWait(pages->daemon().changes, seen, limits_.futex_slice_ms, proto::kReleaseBit);
  }
}

}  // namespace keepstep::client
