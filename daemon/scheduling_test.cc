#include "daemon/scheduling.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

namespace keepstep::daemon {
namespace {

// On a thread of its own: the test program's keeps its slices.
template <typename Body>
void OnAThread(const Body& body) {
  std::thread(body).join();
}

TEST(TimeSlice, IsTheThreadsAndThoseItStarts) {
  const int64_t before = TimeSlice();
  OnAThread([&] {
    if (!SetTimeSlice(kAnswerSliceNs)) GTEST_SKIP() << "this Linux knows no time slices of threads";
    EXPECT_EQ(TimeSlice(), kAnswerSliceNs);
    OnAThread([&] { EXPECT_EQ(TimeSlice(), kAnswerSliceNs); });
  });
  EXPECT_EQ(TimeSlice(), before);
}

TEST(WorkInBackground, IsBatchAndNicerOfThisThreadAlone) {
  const auto niceness = [] { return getpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid))); };
  const int before = niceness();
  OnAThread([&] {
    WorkInBackground();
    EXPECT_EQ(sched_getscheduler(0), SCHED_BATCH);
    EXPECT_EQ(niceness(), std::min(before + kBackgroundNiceness, 19));
    if (TimeSlice() != 0) EXPECT_EQ(TimeSlice(), kBackgroundSliceNs);  // 0: an older Linux
  });
  EXPECT_EQ(niceness(), before);
  EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
}

TEST(TimeSlice, ASliceThatLinuxDoesNotGiveIsNone) {
  OnAThread([] { EXPECT_FALSE(SetTimeSlice(1)); });
}

}  // namespace
}  // namespace keepstep::daemon
