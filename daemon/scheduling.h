// Who goes first where the daemon and the trainers share processors: a trainer, then an answer that it waits for, then
// the copying, digesting and planning of saves. A trainer that waits at its gate leaves its processor to them.

#ifndef KEEPSTEP_DAEMON_SCHEDULING_H_
#define KEEPSTEP_DAEMON_SCHEDULING_H_

#include <cstdint>

namespace keepstep::daemon {

inline constexpr int kBackgroundNiceness = 5;      // below the daemon's other threads
inline constexpr int64_t kAnswerSliceNs = 100'000;  // the least that Linux gives
inline constexpr int64_t kBackgroundSliceNs = 10'000'000;

// Gives the calling thread, and the threads that it starts from then on, time slices of so many nanoseconds (100,000 to
// 100,000,000) rather than the system's, which are some 3 ms. Of those that want a processor the one with the shorter slice
// goes first, and it interrupts one with longer slices when it wakes up, where it would else wait for a tick, up to 4 ms. The
// share of the processor stays what it was. False: Linux before 6.12, which knows no slices of threads, or one that refuses.
//
// Source: sched_setattr(2), sched_attr::sched_runtime of SCHED_OTHER and SCHED_BATCH.
bool SetTimeSlice(int64_t nanoseconds);

// The calling thread's; 0: this Linux does not say.
int64_t TimeSlice();

// The calling thread works for somebody who does not wait: SCHED_BATCH, so that it interrupts nobody when it wakes up,
// kBackgroundNiceness below, and with slices longer than anybody's, so that whoever wakes up interrupts it. Never undone. A
// kernel that refuses only takes the courtesy away.
void WorkInBackground();

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_SCHEDULING_H_
