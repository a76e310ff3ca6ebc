#include "daemon/reader_leases.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

TEST(ReaderLeases, AReaderAndADeletionNeverMeet) {
  ReaderLeases leases;
  ReadLease first = leases.Take("job/a"), second = leases.Take("job/a");
  EXPECT_FALSE(leases.Reserve("job/a"));
  EXPECT_TRUE(leases.Reserve("job/b"));
  EXPECT_EQ(leases.Take("job/b"), nullptr);
  EXPECT_FALSE(leases.Reserve("job/b")) << "one deletion at a time";
  first.reset();
  EXPECT_FALSE(leases.Reserve("job/a"));
  second.reset();
  EXPECT_TRUE(leases.Reserve("job/a"));
  leases.Release("job/a");
  EXPECT_NE(leases.Take("job/a"), nullptr);
}

TEST(ReaderLeases, IsInUseWhileSomebodyReadsOrDeletes) {
  ReaderLeases leases;
  EXPECT_FALSE(leases.in_use());
  ReadLease lease = leases.Take("job/a");
  EXPECT_TRUE(leases.in_use());
  lease.reset();
  EXPECT_FALSE(leases.in_use());
  ASSERT_TRUE(leases.Reserve("job/a"));
  EXPECT_TRUE(leases.in_use());
  leases.Release("job/a");
  EXPECT_FALSE(leases.in_use());
}

TEST(ReaderLeases, ALeaseMayOutliveTheTable) {
  ReadLease lease;
  {
    ReaderLeases leases;
    lease = leases.Take("job/a");
  }
  lease.reset();
}

TEST(ReaderLeases, ManyThreadsAtOnce) {
  ReaderLeases leases;
  std::atomic<int> readers{0}, deletions{0}, met{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, reads = i < 6] {
      for (int round = 0; round < 2000; ++round) {
        if (reads) {
          const ReadLease lease = leases.Take("job/a");
          if (lease == nullptr) continue;
          ++readers;
          met += deletions > 0;
          --readers;
        } else if (leases.Reserve("job/a")) {
          ++deletions;
          met += readers > 0 || deletions > 1;
          --deletions;
          leases.Release("job/a");
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(met, 0);
}

}  // namespace
}  // namespace keepstep::daemon
