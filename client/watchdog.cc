#include "client/watchdog.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/failure.h"
#include "client/thread.h"

namespace keepstep::client {
namespace {

using Clock = std::chrono::steady_clock;

// Changes whenever the daemon copies, releases or reports for this session.
uint64_t Progress(const proto::DaemonPage& page) {
  constexpr uint64_t kPrime = 1099511628211;
  uint64_t digest = page.progress_bytes.load();
  for (const auto& state : page.states) digest = digest * kPrime + state.load();
  for (const auto& released : page.released) digest = digest * kPrime + released.load();
  return digest;
}

}  // namespace

struct Watchdog::Sight {
  const SessionPages* pages = nullptr;
  uint64_t heartbeat_ns = 0, progress = 0;
  int64_t silent_ms = 0, stuck_ms = 0;
  Clock::time_point at;
};

Watchdog::Watchdog(SaveLedger* ledger, const Limits& limits) : ledger_(ledger), limits_(limits) {
  thread_ = StartThread("ks-watchdog", [this] { Run(); });
}

Watchdog::~Watchdog() {
  stop_.Set();
  thread_.join();
}

void Watchdog::Run() {
  Sight sight;
  while (!stop_.Wait(0)) {
    const std::shared_ptr<SessionPages> pages = ledger_->pages();
    if (pages != nullptr) Look(pages, &sight);
    if (pages == nullptr || pages->DaemonGone()) {
      stop_.Wait(limits_.watchdog_period_ms);
    } else {
      pages->AwaitGone(stop_.fd(), limits_.watchdog_period_ms);
    }
  }
}

void Watchdog::Look(const std::shared_ptr<SessionPages>& pages, Sight* sight) {
  const auto now = Clock::now();
  if (sight->pages != pages.get()) *sight = {.pages = pages.get(), .at = now};
  const int64_t since_ms =
      std::min<int64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(now - sight->at).count(),
                        2 * limits_.watchdog_period_ms);
  sight->at = now;
  const uint64_t heartbeat_ns = pages->daemon().heartbeat_ns.load();
  const uint64_t progress = Progress(pages->daemon());
  const bool beats = heartbeat_ns != std::exchange(sight->heartbeat_ns, heartbeat_ns);
  const bool moves = progress != std::exchange(sight->progress, progress) || !ledger_->OwesCopy();
  sight->silent_ms = beats ? 0 : sight->silent_ms + since_ms;
  sight->stuck_ms = moves ? 0 : sight->stuck_ms + since_ms;
  if (pages->DaemonGone()) {
    ledger_->PoisonAndOpen(
        MakeError(absl::StatusCode::kAborted, "DAEMON_LOST",
                  "the daemon ended during the save; training goes on and the next save is tried "
                  "when the daemon is back",
                  "copy"));
  } else if (sight->silent_ms > limits_.heartbeat_ms) {
    ledger_->PoisonAndOpen(
        MakeError(absl::StatusCode::kAborted, "DAEMON_STUCK",
                  absl::StrCat("the daemon gave no sign of life for ", sight->silent_ms, " ms"), "copy"));
  } else if (sight->stuck_ms > limits_.progress_ms) {
    ledger_->PoisonAndOpen(MakeError(absl::StatusCode::kAborted, "DAEMON_STUCK",
                                     absl::StrCat("the daemon copied nothing for ", sight->stuck_ms, " ms"),
                                     "copy"));
  }
}

}  // namespace keepstep::client
