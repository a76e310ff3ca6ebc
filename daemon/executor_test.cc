#include "daemon/executor.h"

#include <future>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

TEST(Strand, DispatchRunsHereWhenTheStrandIsFree) {
  Executor executor(2);
  Strand strand(&executor);
  std::thread::id where;
  strand.Dispatch([&] { where = std::this_thread::get_id(); });
  EXPECT_EQ(where, std::this_thread::get_id());
}

// A caller that shares its thread with others must not work through what piled up while it had the strand.
TEST(Strand, WhatComesDuringADispatchRunsElsewhereInOrder) {
  Executor executor(2);
  Strand strand(&executor);
  std::vector<int> order;
  std::promise<std::thread::id> last;
  strand.Dispatch([&] {
    strand.Post([&] { order.push_back(2); });
    strand.Dispatch([&] { order.push_back(3); });
    strand.Post([&] { last.set_value(std::this_thread::get_id()); });
    order.push_back(1);
  });
  EXPECT_NE(last.get_future().get(), std::this_thread::get_id());
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

}  // namespace
}  // namespace keepstep::daemon
