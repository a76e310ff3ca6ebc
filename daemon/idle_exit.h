// Ends a daemon that nobody needs: one that a program started for itself goes when the program is long gone.

#ifndef KEEPSTEP_DAEMON_IDLE_EXIT_H_
#define KEEPSTEP_DAEMON_IDLE_EXIT_H_

#include <signal.h>

#include <chrono>
#include <functional>

namespace keepstep::daemon {

// Waits for one of `signals`, which every thread blocks. Returns it; or 0 once `in_use` has said no for
// `limit` on end, looked at every second or four times within the limit. Zero: only a signal ends the wait.
int AwaitSignal(const sigset_t& signals, std::chrono::milliseconds limit,
                const std::function<bool()>& in_use);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_IDLE_EXIT_H_
