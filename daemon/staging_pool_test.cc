#include "daemon/staging_pool.h"

#include <cstring>
#include <future>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
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
  pool.SetReclaimer([&cached, reclaimed](int) {
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
  EXPECT_EQ(pool->Acquire(cancel, kAnyNode, soon).status().code(), absl::StatusCode::kDeadlineExceeded);
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

// ---- a machine of two nodes, as far as the pool can tell

class NearTest : public testing::Test {
 protected:
  void Start(int64_t buffers) {
    StagingPool::Options options;
    options.buffer_bytes = kBytes;
    options.limit_bytes = buffers * kBytes;
    options.initial_bytes = 0;
    options.shared = true;
    options.prefault_threads = 1;
    options.place = [this](absl::Span<std::byte> range, int node) {
      EXPECT_EQ(range.size(), kBytes);
      placed_.emplace_back(pool_->OffsetOf(range.data(), kBytes) / kBytes, node);
    };
    pool_ = *StagingPool::Start(options);
  }
  StagingBuffer Take(int node) { return *pool_->Acquire(cancel_, node); }
  int64_t SlotOf(const StagingBuffer& buffer) const { return pool_->OffsetOf(buffer.data(), kBytes) / kBytes; }
  int64_t Capacity() const { return pool_->stats().capacity_bytes / kBytes; }

  std::vector<std::pair<int64_t, int>> placed_;  // slot, node
  std::unique_ptr<StagingPool> pool_;
  Cancellation cancel_;
};

TEST_F(NearTest, GrowthIsPlacedBeforeItHasMemory) {
  Start(3);
  const StagingBuffer one = Take(1), zero = Take(0), any = Take(kAnyNode);
  EXPECT_EQ(placed_, (std::vector<std::pair<int64_t, int>>{{SlotOf(one), 1}, {SlotOf(zero), 0}}));
  EXPECT_EQ(one.node(), 1);
  EXPECT_EQ(zero.node(), 0);
  EXPECT_EQ(any.node(), kAnyNode);
}

TEST_F(NearTest, AFreeBufferOfTheNodeGoesFirst) {
  Start(4);
  std::optional<StagingBuffer> zero = Take(0), one = Take(1), any = Take(kAnyNode);
  const int64_t of_zero = SlotOf(*zero), of_one = SlotOf(*one), of_any = SlotOf(*any);
  one.reset();
  zero.reset();
  any.reset();
  const StagingBuffer for_one = Take(1), for_nobody = Take(kAnyNode), for_zero = Take(0);
  EXPECT_EQ(SlotOf(for_one), of_one);
  EXPECT_EQ(SlotOf(for_nobody), of_any) << "what others prefer is left to them";
  EXPECT_EQ(SlotOf(for_zero), of_zero);
  EXPECT_EQ(Capacity(), 3);
  EXPECT_EQ(pool_->stats().taken_near, 4u);
  EXPECT_EQ(pool_->stats().taken_elsewhere, 0u);
}

TEST_F(NearTest, AFreeBufferElsewhereIsTakenRatherThanGrowthThatNobodyExpects) {
  Start(4);
  const int64_t slot = SlotOf(Take(0));
  const StagingBuffer for_one = Take(1);
  EXPECT_EQ(SlotOf(for_one), slot);
  EXPECT_EQ(for_one.node(), 0);
  EXPECT_EQ(Capacity(), 1);
  EXPECT_EQ(pool_->stats().taken_elsewhere, 1u);
}

TEST_F(NearTest, GrowthThatIsExpectedComesBeforeAFreeBufferElsewhere) {
  Start(4);
  (void)Take(0);
  const auto expected = pool_->Expect("save", 2);
  const StagingBuffer near = Take(1), elsewhere = Take(1);
  EXPECT_EQ(near.node(), 1);
  EXPECT_EQ(elsewhere.node(), 0) << "two were expected, and two are there";
  EXPECT_EQ(Capacity(), 2);
}

TEST_F(NearTest, AtTheLimitWhatComesFreeIsTakenWhereverItLies) {
  Start(1);
  std::optional<StagingBuffer> zero = Take(0);
  auto one = std::async(std::launch::async, [&] { return Take(1).node(); });
  AwaitWaiters(*pool_, 1);
  zero.reset();
  EXPECT_EQ(one.get(), 0);
}

TEST_F(NearTest, NobodyIsPassedMoreThanFourTimes) {
  Start(1);
  std::optional<StagingBuffer> zero = Take(0);
  std::mutex mutex;
  std::vector<int> order;
  std::vector<std::thread> threads;
  for (int i = 0; i < 7; ++i) {
    threads.emplace_back([&, i] {
      const StagingBuffer buffer = Take(i == 0 ? 1 : 0);
      std::lock_guard<std::mutex> lock(mutex);
      order.push_back(i);
    });
    AwaitWaiters(*pool_, i + 1);
  }
  zero.reset();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3, 4, 0, 5, 6}));
}

TEST_F(NearTest, NobodyPrefersANodeNothingIsPlaced) {
  Start(4);
  ASSERT_TRUE(pool_->Reserve(2 * kBytes).ok());
  const StagingBuffer one = Take(kAnyNode), two = Take(kAnyNode), three = Take(kAnyNode);
  EXPECT_TRUE(placed_.empty());
  EXPECT_EQ(pool_->stats().taken_near + pool_->stats().taken_elsewhere, 0u);
}

// The policy outlives the memory.
TEST_F(NearTest, MemoryThatWasGivenBackIsPlacedAnew) {
  Start(1);
  (void)Take(1);
  ASSERT_EQ(pool_->Shrink(0), kBytes);
  (void)Take(1);
  EXPECT_EQ(placed_, (std::vector<std::pair<int64_t, int>>{{0, 1}}));
  ASSERT_EQ(pool_->Shrink(0), kBytes);
  EXPECT_EQ(Take(kAnyNode).node(), kAnyNode);
  EXPECT_EQ(placed_, (std::vector<std::pair<int64_t, int>>{{0, 1}, {0, kAnyNode}}));
}

TEST_F(NearTest, ReserveGrowsWhereItIsWanted) {
  Start(8);
  ASSERT_TRUE(pool_->Reserve(2 * kBytes).ok());
  ASSERT_TRUE(pool_->Reserve(6 * kBytes, {{0, kBytes}, {1, 2 * kBytes}}).ok());
  EXPECT_EQ(Capacity(), 6) << "one more lies anywhere";
  ASSERT_TRUE(pool_->Reserve(6 * kBytes, {{0, kBytes}, {1, 2 * kBytes}}).ok());
  EXPECT_EQ(Capacity(), 6);
  ASSERT_TRUE(pool_->Reserve(7 * kBytes, {{1, 100 * kBytes}}).ok());
  EXPECT_EQ(Capacity(), 8) << "as far as the limit allows";
  std::map<int, int> nodes;
  for (const auto& [slot, node] : placed_) ++nodes[node];
  EXPECT_EQ(nodes, (std::map<int, int>{{0, 1}, {1, 4}}));
}

TEST_F(NearTest, WhatIsCachedThereIsAskedForFirst) {
  Start(2);
  std::list<StagingBuffer> cached;
  std::vector<int> asked;
  pool_->SetReclaimer([&](int node) {
    if (cached.size() < 2) return false;
    asked.push_back(node);
    cached.pop_back();
    return true;
  });
  cached.push_back(Take(0));
  cached.push_back(Take(1));
  EXPECT_EQ(Take(1).node(), 1);
  EXPECT_EQ(asked, std::vector<int>{1});
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
