#include "reshard/names.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::reshard {
namespace {

TEST(EditDistance, CountsEdits) {
  EXPECT_EQ(EditDistance("", "", 5), 0u);
  EXPECT_EQ(EditDistance("kitten", "sitting", 10), 3u);
  EXPECT_EQ(EditDistance("sitting", "kitten", 10), 3u);
  EXPECT_EQ(EditDistance("abc", "", 10), 3u);
  EXPECT_EQ(EditDistance("model.layers.0.w", "layers.0.w", 10), 6u);
}

TEST(EditDistance, StopsAtTheLimit) {
  EXPECT_EQ(EditDistance("kitten", "sitting", 3), 3u);
  EXPECT_EQ(EditDistance("kitten", "sitting", 2), 2u);
  EXPECT_EQ(EditDistance("abcdefgh", "stuvwxyz", 4), 4u);
}

TEST(ClosestName, FindsWhatWasMeant) {
  const std::vector<std::string> stored = {"output.weight", "norm.weight"};
  EXPECT_EQ(ClosestName("lm_head.weight", stored), "output.weight");
  EXPECT_EQ(ClosestName("norm.weigth", stored), "norm.weight");
  EXPECT_EQ(ClosestName("zzzzz", stored), "");
  EXPECT_EQ(ClosestName("x", {}), "");
}

}  // namespace
}  // namespace keepstep::reshard
