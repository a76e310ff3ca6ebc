#include "reshard/flat.h"

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::reshard {
namespace {

TEST(Flat, GivesHeadMiddleAndTail) {
  const std::vector<Box> expected = {{{0, 3}, {1, 1}}, {{1, 0}, {2, 4}}, {{3, 0}, {1, 2}}};
  EXPECT_EQ(DecomposeFlatRange(WholeBox({5, 4}), 3, 14), expected);
}

TEST(Flat, KeepsTheCoordinatesOfTheBox) {
  const std::vector<Box> expected = {{{10, 21}, {1, 2}}, {{11, 20}, {1, 1}}};
  EXPECT_EQ(DecomposeFlatRange(Box{{10, 20}, {2, 3}}, 1, 4), expected);
}

TEST(Flat, WholeScalarAndEmpty) {
  EXPECT_EQ(DecomposeFlatRange(Box{}, 0, 1), std::vector<Box>{Box{}});
  EXPECT_TRUE(DecomposeFlatRange(Box{}, 0, 0).empty());
  EXPECT_TRUE(DecomposeFlatRange(WholeBox({3, 0}), 0, 0).empty());
  EXPECT_EQ(DecomposeFlatRange(WholeBox({3, 4}), 0, 12), std::vector<Box>{WholeBox({3, 4})});
}

// Every range of a small 4-d box: few enough boxes, and each starts where the one before ends.
TEST(Flat, EveryRangeIsExactWithinTheBound) {
  const Box of{{1, 0, 2, 5}, {2, 3, 2, 3}};
  const auto position = [&](const Box& box) {
    int64_t at = 0;
    for (size_t d = 0; d < 4; ++d) at = at * of.shape[d] + box.origin[d] - of.origin[d];
    return at;
  };
  for (int64_t begin = 0; begin <= 36; ++begin) {
    for (int64_t end = begin; end <= 36; ++end) {
      const std::vector<Box> boxes = DecomposeFlatRange(of, begin, end);
      EXPECT_LE(boxes.size(), 7u);
      int64_t at = begin;
      for (const Box& box : boxes) {
        EXPECT_EQ(position(box), at);
        EXPECT_TRUE(Contains(of, box));
        at += NumElements(box);
      }
      EXPECT_EQ(at, end);
    }
  }
}

TEST(Flat, RefusesRangesOutsideTheBox) {
  EXPECT_TRUE(ValidateFlatRange(WholeBox({3, 4}), 12, 12).ok());
  for (const auto& [begin, end] : {std::pair{-1, 2}, {3, 2}, {0, 13}}) {
    EXPECT_EQ(ValidateFlatRange(WholeBox({3, 4}), begin, end).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(FlatDeathTest, AbortsOnRangesThatNobodyValidated) {
  EXPECT_DEATH(DecomposeFlatRange(WholeBox({2}), 0, 3), "was not validated");
}

}  // namespace
}  // namespace keepstep::reshard
