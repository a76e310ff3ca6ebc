#include "reshard/coverage.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "reshard/flat.h"

namespace keepstep::reshard {
namespace {

TEST(Coverage, AcceptsTilings) {
  EXPECT_TRUE(CheckCoverage({4, 4}, std::vector<Box>{{{0, 0}, {4, 2}}, {{0, 2}, {4, 2}}}).ok());
  EXPECT_TRUE(CheckCoverage({}, std::vector<Box>{Box{}}).ok());
  EXPECT_TRUE(CheckCoverage({3, 0}, {}).ok());
  // A pinwheel: no straight cut goes through between the boxes.
  EXPECT_TRUE(
      CheckCoverage(
          {3, 3},
          std::vector<Box>{
              {{0, 0}, {1, 2}}, {{0, 2}, {2, 1}}, {{2, 1}, {1, 2}}, {{1, 0}, {2, 1}}, {{1, 1}, {1, 1}}})
          .ok());
}

// A rank that never registered must be found at save, with what is missing.
TEST(Coverage, ListsHolesAsBoxes) {
  const absl::Status status = CheckCoverage({8, 4}, std::vector<Box>{{{0, 0}, {2, 4}}, {{4, 0}, {4, 4}}});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "8 of 32 elements of shape [8, 4] are in no box: [2:4, 0:4]");
  EXPECT_EQ(CheckCoverage({}, {}).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Coverage, ListsABoundedNumberOfHoles) {
  std::vector<Box> every_other;
  for (int64_t i = 0; i < 1000; i += 2) every_other.push_back(Box{{i}, {1}});
  const Holes holes = FindHoles(WholeBox({1000}), every_other);
  EXPECT_EQ(holes.boxes.size(), kMaxListedHoles);
  EXPECT_FALSE(holes.complete);
  EXPECT_EQ(ToString(holes).substr(0, 9), "[1:2], [3");
}

TEST(Coverage, NamesBoxesThatOverlapOrLeave) {
  const absl::Status overlap = CheckCoverage({4}, std::vector<Box>{{{0}, {3}}, {{2}, {2}}});
  EXPECT_EQ(overlap.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(overlap.message(), "boxes [0:3] and [2:4] overlap");
  EXPECT_EQ(CheckCoverage({4}, std::vector<Box>{{{0}, {5}}}).code(), absl::StatusCode::kInvalidArgument);
}

// An overlap that hides a hole: the sizes add up, the tensor is not covered.
TEST(Coverage, OverlapDoesNotMakeUpForAHole) {
  EXPECT_FALSE(CheckCoverage({4}, std::vector<Box>{{{0}, {2}}, {{1}, {2}}}).ok());
}

TEST(FindHoles, BoxesMayOverlapAndLeaveTheRegion) {
  const Holes holes = FindHoles(Box{{2, 2}, {4, 4}}, std::vector<Box>{{{0, 0}, {4, 9}}, {{1, 1}, {4, 9}}});
  ASSERT_TRUE(holes.complete);
  EXPECT_EQ(holes.boxes, (std::vector<Box>{{{5, 2}, {1, 4}}}));
}

TEST(FindHoles, FindsOneMissingRankOfManyFlatOnes) {
  const Box whole = WholeBox({2048, 512});
  std::vector<Box> boxes;
  for (int64_t r = 0; r < 4096; ++r) {
    if (r == 1234) continue;
    for (const Box& box : DecomposeFlatRange(whole, r * 256, (r + 1) * 256)) boxes.push_back(box);
  }
  const Holes holes = FindHoles(whole, boxes);
  EXPECT_TRUE(holes.complete);
  EXPECT_EQ(holes.boxes, DecomposeFlatRange(whole, 1234 * 256, 1235 * 256));
}

// Thin crossing slabs in many dimensions make every cut meet every box. The answer must come in bounded time.
TEST(FindHoles, GivesUpOnArrangementsMadeToBeSlow) {
  std::vector<Box> slabs;
  const Box whole{Dims(8, 0), Dims(8, 200)};
  for (size_t d = 0; d < 8; ++d) {
    for (int64_t i = 0; i < 200; i += 2) {
      slabs.push_back(whole);
      slabs.back().origin[d] = i;
      slabs.back().shape[d] = 1;
    }
  }
  EXPECT_FALSE(FindHoles(whole, slabs, 1 << 20).complete);
}

}  // namespace
}  // namespace keepstep::reshard
