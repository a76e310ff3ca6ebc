#include "daemon/idle_exit.h"

#include <time.h>

#include <algorithm>
#include <cerrno>

namespace keepstep::daemon {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kLookMost(1000), kLookLeast(10);

}  // namespace

int AwaitSignal(const sigset_t& signals, milliseconds limit, const std::function<bool()>& in_use) {
  const milliseconds look = limit.count() == 0 ? kLookMost : std::clamp(limit / 4, kLookLeast, kLookMost);
  const timespec pause{.tv_sec = look.count() / 1000, .tv_nsec = look.count() % 1000 * 1'000'000};
  auto used = Clock::now();
  for (;;) {
    const int signal =
        limit.count() == 0 ? sigwaitinfo(&signals, nullptr) : sigtimedwait(&signals, nullptr, &pause);
    if (signal > 0) return signal;
    if (limit.count() == 0 || errno != EAGAIN) continue;  // another signal's handler ran
    if (in_use()) used = Clock::now();
    if (Clock::now() - used >= limit) return 0;
  }
}

}  // namespace keepstep::daemon
