#include "reshard/box.h"

#include <cstdint>
#include <limits>
#include <optional>

#include "absl/hash/hash.h"
#include "gtest/gtest.h"

namespace keepstep::reshard {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

TEST(Box, ScalarHasOneElementAndZeroExtentHasNone) {
  EXPECT_EQ(NumElements(Box{}), 1);
  EXPECT_FALSE(IsEmpty(Box{}));
  EXPECT_EQ(NumElements(Dims{3, 0, 5}), 0);
  EXPECT_TRUE(IsEmpty(Box{{1, 2}, {4, 0}}));
  EXPECT_EQ(NumElements(WholeBox({3, 4})), 12);
}

TEST(Box, IntersectsOnlyWhereThereAreElements) {
  EXPECT_EQ(Intersect(Box{{0, 0}, {4, 4}}, Box{{2, 3}, {4, 4}}), (Box{{2, 3}, {2, 1}}));
  EXPECT_EQ(Intersect(Box{{0}, {4}}, Box{{4}, {4}}), std::nullopt);
  EXPECT_EQ(Intersect(Box{{0}, {4}}, Box{{1}, {0}}), std::nullopt);
  EXPECT_EQ(Intersect(Box{}, Box{}), Box{});
  EXPECT_EQ(Intersect(Box{{0}, {4}}, Box{{0, 0}, {4, 4}}), std::nullopt);
}

TEST(Box, ContainsIsAboutIntervals) {
  const Box outer{{2, 2}, {4, 4}};
  EXPECT_TRUE(Contains(outer, outer));
  EXPECT_TRUE(Contains(outer, Box{{6, 2}, {0, 1}}));
  EXPECT_FALSE(Contains(outer, Box{{7, 2}, {0, 1}}));
  EXPECT_FALSE(Contains(outer, Box{{2, 2}, {5, 1}}));
  EXPECT_FALSE(Contains(outer, Box{{2}, {1}}));
}

TEST(Box, EqualBoxesHashAlike) {
  EXPECT_EQ(absl::HashOf(Box{{1, 2}, {3, 4}}), absl::HashOf(Box{{1, 2}, {3, 4}}));
  EXPECT_NE(absl::HashOf(Box{{1, 2}, {3, 4}}), absl::HashOf(Box{{1, 2}, {3, 5}}));
}

TEST(Box, RefusesShapesThatNobodyCanHold) {
  EXPECT_TRUE(ValidateShape({}).ok());
  EXPECT_TRUE(ValidateShape(Dims(64, 1)).ok());
  EXPECT_EQ(ValidateShape(Dims(65, 1)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ValidateShape({2, -1}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(ValidateShape({kMax}).ok());
  EXPECT_EQ(ValidateShape({kMax, 2}).code(), absl::StatusCode::kInvalidArgument);
  // A zero does not hide the overflow: strides are made from all extents.
  EXPECT_EQ(ValidateShape({kMax, 2, 0}).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Box, RefusesBoxesOutsideTheShape) {
  EXPECT_TRUE(ValidateBox(Box{{1, 0}, {2, 4}}, {3, 4}).ok());
  EXPECT_TRUE(ValidateBox(Box{{3}, {0}}, {3}).ok());
  EXPECT_TRUE(ValidateBox(Box{}, {}).ok());
  for (const Box& bad : {Box{{-1}, {1}}, Box{{0}, {-1}}, Box{{2}, {2}}, Box{{4}, {0}}, Box{{1}, {kMax}},
                         Box{{kMax}, {kMax}}, Box{{0, 0}, {1, 1}}, Box{{0}, {1, 1}}, Box{}}) {
    EXPECT_EQ(ValidateBox(bad, {3}).code(), absl::StatusCode::kInvalidArgument) << ToString(bad.origin);
  }
}

TEST(Box, IsReadable) {
  EXPECT_EQ(ToString(Box{{0, 8}, {4, 8}}), "[0:4, 8:16]");
  EXPECT_EQ(ToString(Box{}), "[]");
  EXPECT_EQ(ToString(Box{{2, INT64_MIN}, {INT64_MAX, -1}}),
            "[2:+9223372036854775807, -9223372036854775808:+-1]");
  EXPECT_EQ(ToString(Dims{4, 8}), "[4, 8]");
}

}  // namespace
}  // namespace keepstep::reshard
