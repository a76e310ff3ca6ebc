#include "reshard/merge.h"

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::reshard {
namespace {

using Ranges = std::vector<ByteRange>;

TEST(Merge, RoundsOutToBlocksButNotPastTheEnd) {
  EXPECT_EQ(RoundOut({5, 9}, 4, 100), (ByteRange{4, 12}));
  EXPECT_EQ(RoundOut({4, 8}, 4, 100), (ByteRange{4, 8}));
  EXPECT_EQ(RoundOut({97, 99}, 8, 99), (ByteRange{96, 99}));
  EXPECT_EQ(RoundOut({5, 5}, 4, 100), (ByteRange{5, 5}));
  const int64_t max = INT64_MAX;
  EXPECT_EQ(RoundOut({max - 1, max}, 1 << 20, max).end, max);
}

TEST(Merge, BridgesSmallGapsInAnyOrder) {
  EXPECT_EQ(MergeRanges({{20, 30}, {0, 10}, {12, 15}}, 2, 1000), (Ranges{{0, 15}, {20, 30}}));
  EXPECT_EQ(MergeRanges({{0, 10}, {10, 20}}, 0, 1000), (Ranges{{0, 20}}));
  EXPECT_EQ(MergeRanges({{7, 7}}, 0, 1000), Ranges{});
}

TEST(Merge, LimitsTheSizeOfBridgedReads) {
  EXPECT_EQ(MergeRanges({{0, 10}, {10, 20}, {20, 30}}, 0, 20), (Ranges{{0, 20}, {20, 30}}));
}

// Bytes that two items need are read once, even where the one read is then larger than the limit.
TEST(Merge, OverlapAlwaysMerges) {
  EXPECT_EQ(MergeRanges({{0, 10}, {5, 25}, {6, 7}}, 0, 12), (Ranges{{0, 25}}));
}

TEST(Merge, FindsTheReadOfAnItem) {
  const Ranges merged = MergeRanges({{0, 10}, {30, 40}, {36, 50}, {90, 99}}, 4, 1000);
  EXPECT_EQ(FindMerged(merged, {36, 50}), 1u);
  EXPECT_EQ(FindMerged(merged, {0, 10}), 0u);
  EXPECT_EQ(FindMerged(merged, {98, 99}), 2u);
  EXPECT_EQ(TotalBytes(merged), 10 + 20 + 9);
}

TEST(MergeDeathTest, AbortsOnARangeThatWasNotMerged) {
  EXPECT_DEATH(FindMerged(Ranges{{0, 10}}, {5, 11}), "was not merged");
}

}  // namespace
}  // namespace keepstep::reshard
