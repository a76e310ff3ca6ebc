#include "daemon/scheduling.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace keepstep::daemon {
namespace {

// <linux/sched/types.h>: glibc before 2.41 has neither the struct nor the calls, and the two headers exclude each other.
struct SchedAttr {
  uint32_t size = sizeof(SchedAttr);
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime_ns = 0;
  uint64_t deadline_ns = 0;
  uint64_t period_ns = 0;
};

bool Get(SchedAttr* attr) { return syscall(SYS_sched_getattr, 0, attr, sizeof(*attr), 0) == 0; }

}  // namespace

bool SetTimeSlice(int64_t nanoseconds) {
  SchedAttr attr;
  if (!Get(&attr)) return false;
  attr.runtime_ns = static_cast<uint64_t>(nanoseconds);
  if (syscall(SYS_sched_setattr, 0, &attr, 0) != 0) return false;
  return TimeSlice() == nanoseconds;
}

int64_t TimeSlice() {
  SchedAttr attr;
  return Get(&attr) ? static_cast<int64_t>(attr.runtime_ns) : 0;
}

void WorkInBackground() {
  sched_param batch{};
  pthread_setschedparam(pthread_self(), SCHED_BATCH, &batch);
  (void)nice(kBackgroundNiceness);  // Linux: of this thread alone
  SetTimeSlice(kBackgroundSliceNs);
}

}  // namespace keepstep::daemon
