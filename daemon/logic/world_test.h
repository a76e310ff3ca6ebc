// A machine with one world of ranks, as most tests of this folder begin.

#ifndef KEEPSTEP_DAEMON_LOGIC_WORLD_TEST_H_
#define KEEPSTEP_DAEMON_LOGIC_WORLD_TEST_H_

#include <cstdint>
#include <vector>

#include "daemon/logic/machine_harness.h"
#include "gtest/gtest.h"

namespace keepstep::daemon {

class WorldTest : public testing::Test {
 protected:
  // Starts the machine and lets ranks 0 to `ranks` - 1 open and register; nothing counts as done yet.
  void Begin(int32_t ranks) {
    h.Start();
    world = h.OpenWorld(ranks, 10);
    h.ForgetActions();
  }
  void SaveOnAll(uint64_t number, int64_t step, BusyPolicy policy = BusyPolicy::kWait) {
    for (SessionId session : world) h.Save(session, number, step, policy);
  }

  MachineHarness h;
  std::vector<SessionId> world;  // by rank
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_WORLD_TEST_H_
