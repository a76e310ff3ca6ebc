#include "daemon/pool_keeper.h"

#include <memory>
#include <utility>
#include <vector>

#include "daemon/block_cache.h"
#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

using std::chrono::seconds;

constexpr int64_t kBytes = 8192;

class PoolKeeperTest : public testing::Test {
 protected:
  PoolKeeperTest() {
    StagingPool::Options options;
    options.buffer_bytes = kBytes;
    options.limit_bytes = 16 * kBytes;
    options.initial_bytes = kBytes;
    pool_ = *StagingPool::Start(options);
    cache_ = std::make_unique<BlockCache>(pool_.get());
  }
  PoolKeeper Keeper() {
    return PoolKeeper(pool_.get(), [this] { return registered_bytes_; },
                      {.idle = seconds(10), .keep_bytes = kBytes, .most_bytes = 4 * kBytes});
  }
  // A finished save of `buffers` chunks, in flight at once, all kept warm.
  void Save(int buffers) {
    std::vector<StagingBuffer> staged;
    for (int i = 0; i < buffers; ++i) staged.push_back(*pool_->Acquire(cancel_));
    for (int i = 0; i < buffers; ++i) cache_->Keep({"job/blob", i * kBytes}, 1, std::move(staged[i]));
  }
  int64_t Capacity() const { return pool_->stats().capacity_bytes / kBytes; }

  std::unique_ptr<StagingPool> pool_;
  std::unique_ptr<BlockCache> cache_;
  Cancellation cancel_;
  int64_t registered_bytes_ = 0;
  PoolKeeper::Clock::time_point start_{};
};

TEST_F(PoolKeeperTest, GivesBackALittleAtATimeAfterTheWait) {
  Save(12);
  PoolKeeper keeper = Keeper();
  EXPECT_EQ(keeper.Look(start_), 0);
  EXPECT_EQ(keeper.Look(start_ + seconds(9)), 0);
  EXPECT_EQ(Capacity(), 12);
  EXPECT_EQ(keeper.Look(start_ + seconds(10)), 4 * kBytes);
  EXPECT_EQ(keeper.Look(start_ + seconds(11)), 4 * kBytes);
  EXPECT_EQ(keeper.Look(start_ + seconds(12)), 3 * kBytes);
  EXPECT_EQ(keeper.Look(start_ + seconds(13)), 0);
  EXPECT_EQ(Capacity(), 1);
}

TEST_F(PoolKeeperTest, AShorterWaitCountsFromTheSameUse) {
  Save(12);
  PoolKeeper keeper = Keeper();
  EXPECT_EQ(keeper.Look(start_), 0);
  EXPECT_EQ(keeper.Look(start_ + seconds(5)), 0);
  keeper.SetIdle(seconds(4));
  EXPECT_EQ(keeper.Look(start_ + seconds(5)), 4 * kBytes);
}

TEST_F(PoolKeeperTest, UseStartsTheWaitAnew) {
  Save(12);
  PoolKeeper keeper = Keeper();
  keeper.Look(start_);
  pool_->Acquire(cancel_)->span();
  EXPECT_EQ(keeper.Look(start_ + seconds(10)), 0);
  EXPECT_EQ(keeper.Look(start_ + seconds(19)), 0);
  EXPECT_GT(keeper.Look(start_ + seconds(20)), 0);
}

// A job that saves every hour must not find its memory gone, and fault it in again, each time.
TEST_F(PoolKeeperTest, RanksThatAreThereKeepTheMemoryOfTheirNextSave) {
  Save(12);
  registered_bytes_ = 10 * kBytes;
  PoolKeeper keeper = Keeper();
  keeper.Look(start_);
  EXPECT_EQ(keeper.Look(start_ + seconds(60)), 2 * kBytes);
  EXPECT_EQ(keeper.Look(start_ + seconds(61)), 0);
  EXPECT_EQ(Capacity(), 10);
}

// What a load still reads from stays.
TEST_F(PoolKeeperTest, PinnedChunksStay) {
  Save(3);
  BlockCache::Pin pin = *cache_->Get({"job/blob", 0}, 1, cancel_);
  PoolKeeper keeper = Keeper();
  keeper.Look(start_);
  keeper.Look(start_ + seconds(10));
  EXPECT_EQ(Capacity(), 1);
  EXPECT_EQ(cache_->stats().chunks, 1);
  pin = BlockCache::Pin();
}

class NearCacheTest : public PoolKeeperTest {
 protected:
  // Fills the cache with chunks near node 0, then near node 1. (The pool's first buffer lies anywhere.)
  void Keep(int zeros, int ones) {
    first_ = *pool_->Acquire(cancel_);
    std::vector<StagingBuffer> staged;
    for (int i = 0; i < zeros + ones; ++i) staged.push_back(*pool_->Acquire(cancel_, i < zeros ? 0 : 1));
    for (int i = 0; i < zeros + ones; ++i) cache_->Keep({"job/blob", i}, 1, std::move(staged[i]));
  }
  StagingBuffer first_;
};

// What goes for somebody who prefers a node.
TEST_F(NearCacheTest, TheCacheGivesUpWhatLiesNear) {
  Keep(7, 8);
  const auto is_there = [&](int64_t chunk) {
    const BlockCache::Pin pin = *cache_->Get({"job/blob", chunk}, 1, cancel_);
    return pin.verified() == std::vector<bool>{true};
  };
  EXPECT_EQ(pool_->Acquire(cancel_, 1)->node(), 1);
  const StagingBuffer free_again = *pool_->Acquire(cancel_), oldest = *pool_->Acquire(cancel_);
  EXPECT_EQ(free_again.node(), 1);
  EXPECT_EQ(oldest.node(), 0);
  EXPECT_TRUE(is_there(1));
  EXPECT_TRUE(is_there(8));
  EXPECT_EQ(cache_->stats().chunks, 13);
}

// Who prefers a node that has little of the cache does not throw out what it has kept there just now.
TEST_F(NearCacheTest, TheNewestOfTheCacheStaysWhereverItLies) {
  Keep(13, 2);
  EXPECT_EQ(pool_->Acquire(cancel_, 1)->node(), 0);
}

}  // namespace
}  // namespace keepstep::daemon
