#include "daemon/staging_pool.h"

#include <cstring>
#include <future>
#include <list>
#include <mutex>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kBytes = 8192;

std::unique_ptr<StagingPool> StartPool(int64_t buffers, int64_t initial = 0) {
  StagingPool::Options options;
  options.buffer_bytes = kBytes;
  options.limit_bytes = buffers * kBytes;
  options.initial_bytes = initial * kBytes;
  return *StagingPool::Start(options);
}

// Waits, without sleeping, until `n` callers wait for a buffer.
void AwaitWaiters(const StagingPool& pool, int64_t n) {
  while (pool.stats().waiters < n) std::this_thread::yield();
}

// The pool takes `cached` for its cache; `reclaimed` (null: nobody asks) counts what it got back.
void GiveUpOldest(StagingPool& pool, std::list<StagingBuffer>& cached, int* reclaimed = nullptr) {
  pool.SetReclaimer([&cached, reclaimed] {
    if (cached.empty()) return false;
    cached.pop_front();
    if (reclaimed != nullptr) ++*reclaimed;
    return true;
  });
}

TEST(StagingPool, GrowsToItsLimitAndNotBeyond) {
  const auto pool = StartPool(3, 1);
  EXPECT_EQ(pool->stats().capacity_bytes, kBytes);
  Cancellation cancel;
  std::vector<StagingBuffer> buffers;
  for (int i = 0; i < 3; ++i) {
    buffers.push_back(*pool->Acquire(cancel));
    std::memset(buffers.back().data(), i + 1, kBytes);
  }
  for (int i = 0; i < 3; ++i) EXPECT_EQ(buffers[i].data()[kBytes - 1], std::byte(i + 1));
  EXPECT_EQ(pool->stats().capacity_bytes, 3 * kBytes);
  const auto soon = StagingPool::Clock::now() + std::chrono::milliseconds(1);
  EXPECT_EQ(pool->Acquire(cancel, soon).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(pool->stats().waiters, 0);
  buffers.clear();
  EXPECT_EQ(pool->stats().used_bytes, 0);
  EXPECT_EQ(pool->stats().high_water_bytes, 3 * kBytes);
}

TEST(StagingPool, ServesWaitersInTheirOrder) {
  const auto pool = StartPool(1);
  Cancellation cancel;
  StagingBuffer held = *pool->Acquire(cancel);
  std::mutex mutex;
  std::vector<int> order;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      StagingBuffer buffer = *pool->Acquire(cancel);
      std::lock_guard<std::mutex> lock(mutex);
      order.push_back(i);
    });
    AwaitWaiters(*pool, i + 1);
  }
  held = StagingBuffer();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3}));
}

TEST(StagingPool, CancellationEndsAWaitAndKeepsTheLine) {
  const auto pool = StartPool(1);
  Cancellation never, cancel;
  StagingBuffer held = *pool->Acquire(never);
  auto first = std::async(std::launch::async, [&] { return pool->Acquire(cancel).status(); });
  AwaitWaiters(*pool, 1);
  auto second = std::async(std::launch::async, [&] { return pool->Acquire(never).ok(); });
  AwaitWaiters(*pool, 2);
  cancel.Cancel(absl::AbortedError("enough"));
  EXPECT_EQ(first.get(), absl::AbortedError("enough"));
  held = StagingBuffer();
  EXPECT_TRUE(second.get());
  EXPECT_EQ(pool->Acquire(cancel).status(), absl::AbortedError("enough"));
}

TEST(StagingPool, ExpectedGrowthComesBeforeReclaimAndReclaimBeforeTheRest) {
  const auto pool = StartPool(3);
  Cancellation cancel;
  std::list<StagingBuffer> cached;
  int reclaimed = 0;
  GiveUpOldest(*pool, cached, &reclaimed);
  const auto one_rank = pool->Expect("save", 1), other_rank = pool->Expect("save", 1);
  cached.push_back(*pool->Acquire(cancel));
  StagingBuffer second = *pool->Acquire(cancel);
  EXPECT_EQ(reclaimed, 0);
  StagingBuffer third = *pool->Acquire(cancel);
  EXPECT_EQ(reclaimed, 1);
  EXPECT_EQ(pool->stats().capacity_bytes, 2 * kBytes);
  StagingBuffer fourth = *pool->Acquire(cancel);
  EXPECT_EQ(pool->stats().capacity_bytes, 3 * kBytes);
}

// A job that loads the same step again and again does not make the pool grow each time.
TEST(StagingPool, WorkThatIsOverAsksForNothingMore) {
  const auto pool = StartPool(8);
  Cancellation cancel;
  std::list<StagingBuffer> cached;
  GiveUpOldest(*pool, cached);
  for (int load = 0; load < 5; ++load) {
    const auto expected = pool->Expect("load", 2);
    for (int i = 0; i < 2; ++i) cached.push_back(*pool->Acquire(cancel));
  }
  EXPECT_EQ(pool->stats().capacity_bytes, 2 * kBytes);
}

// Ranks that load the same checkpoint share what they read.
TEST(StagingPool, WorkThatRanksShareAsksForItOnce) {
  const auto pool = StartPool(8);
  Cancellation cancel;
  std::list<StagingBuffer> cached;
  GiveUpOldest(*pool, cached);
  const auto one_rank = pool->Expect("load", 2, 3), other_rank = pool->Expect("load", 2, 3);
  for (int i = 0; i < 8; ++i) cached.push_back(*pool->Acquire(cancel));
  EXPECT_EQ(pool->stats().capacity_bytes, 3 * kBytes);
}

TEST(StagingPool, ReserveGrowsAndShrinkGivesBack) {
  const auto pool = StartPool(64);
  ASSERT_TRUE(pool->Reserve(1000 * kBytes).ok());
  EXPECT_EQ(pool->stats().capacity_bytes, 64 * kBytes);
  Cancellation cancel;
  StagingBuffer held = *pool->Acquire(cancel);
  held.data()[0] = std::byte{7};
  EXPECT_EQ(pool->Shrink(2 * kBytes), 62 * kBytes);
  EXPECT_EQ(pool->Shrink(0), kBytes);
  EXPECT_EQ(held.data()[0], std::byte{7});
  StagingBuffer fresh = *pool->Acquire(cancel);
  EXPECT_EQ(fresh.data()[0], std::byte{0});
}

TEST(StagingPool, RefusesImpossibleSizes) {
  StagingPool::Options options;
  options.buffer_bytes = 1000;
  EXPECT_EQ(StagingPool::Start(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.buffer_bytes = kBytes;
  options.limit_bytes = kBytes - 1;
  EXPECT_EQ(StagingPool::Start(options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace keepstep::daemon
