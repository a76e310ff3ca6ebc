#include "daemon/idle_exit.h"

#include <gtest/gtest.h>
#include <pthread.h>

namespace keepstep::daemon {
namespace {

using std::chrono::milliseconds;

class AwaitSignalTest : public testing::Test {
 protected:
  AwaitSignalTest() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  }

  sigset_t signals_;
};

TEST_F(AwaitSignalTest, EndsOnceItHasNotBeenUsedForTheLimit) {
  int uses = 20, looks = 0;
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(AwaitSignal(signals_, milliseconds(40), [&] { return ++looks <= uses; }), 0);
  EXPECT_GT(looks, uses) << "as long as it is used it goes on";
  EXPECT_GE(std::chrono::steady_clock::now() - begin, milliseconds(40));
}

TEST_F(AwaitSignalTest, ReturnsASignalAtOnce) {
  pthread_kill(pthread_self(), SIGUSR1);
  EXPECT_EQ(AwaitSignal(signals_, milliseconds(3'600'000), [] { return true; }), SIGUSR1);
}

TEST_F(AwaitSignalTest, WithoutALimitOnlyASignalEndsIt) {
  pthread_kill(pthread_self(), SIGUSR1);
  EXPECT_EQ(AwaitSignal(signals_, milliseconds(0),
                        [] {
                          ADD_FAILURE() << "nobody needs to know";
                          return false;
                        }),
            SIGUSR1);
}

}  // namespace
}  // namespace keepstep::daemon
