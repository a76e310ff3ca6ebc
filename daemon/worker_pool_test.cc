#include "daemon/worker_pool.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <future>
#include <string>

namespace keepstep::daemon {
namespace {

template <typename Look>
int InWorker(WorkerPool& pool, Look look) {
  std::promise<int> answer;
  pool.Submit(Urgency::kCopy, [&] { answer.set_value(look()); });
  return answer.get_future().get();
}

TEST(WorkerPoolTest, WorkersLetOthersGoFirst) {
  WorkerPool pool(1);
  EXPECT_EQ(InWorker(pool, [] { return sched_getscheduler(0); }), SCHED_BATCH);
}

TEST(WorkerPoolTest, CopiesGoBeforeDigests) {
  WorkerPool pool(1);
  std::promise<void> go;
  std::string order;
  pool.Submit(Urgency::kCopy, [held = go.get_future().share()] { held.wait(); });
  pool.Submit(Urgency::kDigest, [&] { order += 'd'; });
  pool.Submit(Urgency::kCopy, [&] { order += 'c'; });
  std::promise<void> done;
  pool.Submit(Urgency::kDigest, [&] { done.set_value(); });
  go.set_value();
  done.get_future().wait();
  EXPECT_EQ(order, "cd");
}

}  // namespace
}  // namespace keepstep::daemon
