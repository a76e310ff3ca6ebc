#include "reshard/load_plan.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reshard/box.h"

namespace keepstep::reshard {
namespace {

using testing::HasSubstr;

class LoadPlanTest : public testing::Test {
 protected:
  void Store(const std::string& fqn, Dims shape, const std::vector<Box>& boxes) {
    StoredTensor& tensor = stored_[fqn];
    tensor.meta = {fqn, DType::kF32, shape, Component::kModel};
    for (const Box& box : boxes) tensor.boxes.push_back({box, next_extent_++});
    names_.push_back(fqn);
  }

  void Want(const std::string& fqn, Dims shape, const std::vector<Box>& boxes) {
    TensorShard shard{{fqn, DType::kF32, shape, Component::kModel}, 0, {}, {}, 0, false};
    for (const Box& box : boxes) shard.boxes.push_back(RowMajorLayout(box, 4));
    wanted_.push_back(shard);
  }

  absl::StatusOr<LoadPlan> Plan(bool allow_partial = false) {
    return MakeLoadPlan(
        wanted_,
        [&](absl::string_view fqn) -> const StoredTensor* {
          const auto at = stored_.find(std::string(fqn));
          return at == stored_.end() ? nullptr : &at->second;
        },
        LoadOptions{allow_partial, names_});
  }

  void ExpectRefused(absl::StatusCode code, const std::vector<std::string>& says) {
    const absl::Status status = Plan().status();
    EXPECT_EQ(status.code(), code) << status;
    for (const std::string& text : says) EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }

  std::map<std::string, StoredTensor> stored_;
  std::vector<std::string> names_;
  std::vector<TensorShard> wanted_;
  uint32_t next_extent_ = 10;
};

TEST_F(LoadPlanTest, TakesRegionsFromEachStoredBoxInOrder) {
  Store("w", {4, 4}, {{{2, 0}, {2, 4}}, {{0, 0}, {2, 4}}});
  Want("w", {4, 4}, {{{1, 1}, {2, 2}}});
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->items.size(), 2u);
  EXPECT_EQ(plan->items[0].extent, 11u);
  EXPECT_EQ(*plan->items[0].stored, (Box{{0, 0}, {2, 4}}));
  EXPECT_EQ(plan->items[0].region, (Box{{1, 1}, {1, 2}}));
  EXPECT_EQ(plan->items[1].extent, 10u);
  EXPECT_EQ(plan->items[1].region, (Box{{2, 1}, {1, 2}}));
  EXPECT_TRUE(plan->missing.empty());
}

TEST_F(LoadPlanTest, EmptyBoxesNeedNothingAndScalarsOneElement) {
  Store("e", {0}, {{{0}, {0}}});
  Store("s", {}, {Box{}});
  Want("e", {0}, {{{0}, {0}}});
  Want("s", {}, {Box{}});
  Want("s", {}, {});
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->items.size(), 1u);
  EXPECT_EQ(plan->items[0].shard, 1u);
}

TEST_F(LoadPlanTest, NamesAbsentTensorsAndWhatWasMeant) {
  Store("output.weight", {2}, {{{0}, {2}}});
  Want("output.weight", {2}, {{{0}, {2}}});
  Want("lm_head.weight", {2}, {{{0}, {2}}});
  Want("q", {2}, {{{0}, {2}}});
  ExpectRefused(absl::StatusCode::kNotFound,
                {"2 of 3 tensors are not in the checkpoint: lm_head.weight (stored: output.weight?), q"});
  const auto plan = Plan(/*allow_partial=*/true);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->missing.size(), 2u);
  EXPECT_TRUE(plan->missing[0].absent);
  EXPECT_EQ(plan->missing[0].shard, 1u);
  EXPECT_EQ(plan->missing[0].closest, "output.weight");
  EXPECT_EQ(plan->items.size(), 1u);
}

TEST_F(LoadPlanTest, ListsABoundedNumberOfNames) {
  for (int i = 0; i < 100; ++i) Want("absent" + std::to_string(i), {1}, {{{0}, {1}}});
  const std::string message(Plan().status().message());
  EXPECT_THAT(message, HasSubstr("100 of 100"));
  EXPECT_THAT(message, HasSubstr("absent7, …"));
  EXPECT_LT(message.size(), 300u);
}

TEST_F(LoadPlanTest, RefusesAnotherDtypeOrShapeEvenWhenPartial) {
  Store("w", {4}, {{{0}, {4}}});
  Want("w", {5}, {{{0}, {5}}});
  ExpectRefused(absl::StatusCode::kFailedPrecondition, {"tensor w", "[4], not [5]"});
  EXPECT_FALSE(Plan(/*allow_partial=*/true).ok());
  wanted_[0].meta.shape = {4};
  wanted_[0].meta.dtype = DType::kBF16;
  ExpectRefused(absl::StatusCode::kFailedPrecondition, {"stored as F32, not BF16"});
}

TEST_F(LoadPlanTest, ListsHoles) {
  Store("w", {8, 2}, {{{0, 0}, {3, 2}}, {{6, 0}, {2, 2}}});
  Store("v", {2}, {});
  Want("w", {8, 2}, {{{0, 0}, {4, 2}}, {{4, 0}, {4, 2}}});
  Want("v", {2}, {{{0}, {2}}});
  ExpectRefused(absl::StatusCode::kFailedPrecondition,
                {"missing coverage", "w [3:4, 0:2], [4:6, 0:2]", "v [0:2]"});
  const auto plan = Plan(/*allow_partial=*/true);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->items.size(), 2u);
  ASSERT_EQ(plan->missing.size(), 2u);
  EXPECT_FALSE(plan->missing[0].absent);
  EXPECT_EQ(plan->missing[0].holes.boxes.size(), 2u);
}

TEST_F(LoadPlanTest, RefusesBoxesThatMakeNoSense) {
  Store("w", {4}, {{{0}, {4}}});
  Want("w", {4}, {{{2}, {3}}});
  ExpectRefused(absl::StatusCode::kInvalidArgument, {"tensor w", "outside the global shape"});
  wanted_.clear();
  Want("w", {4}, {{{0}, {4}}});
  stored_["w"].boxes.push_back({Box{{3}, {1}}, 9});
  ExpectRefused(absl::StatusCode::kFailedPrecondition, {"stored tensor w", "overlap"});
  stored_["w"].boxes[1].box = Box{{3}, {2}};
  ExpectRefused(absl::StatusCode::kFailedPrecondition, {"stored tensor w", "outside"});
}

// 10,000 columns stored, 10,000 other columns wanted: comparing all pairs would take hundreds of millions of
// steps.
TEST_F(LoadPlanTest, IsQuickForManyBoxes) {
  constexpr int64_t kColumns = 10000;
  std::vector<Box> stored = {{{0, 0}, {4, 1}}};
  std::vector<Box> wanted;
  for (int64_t c = 0; c < kColumns; ++c) {
    stored.push_back({{0, 1 + 2 * c}, {4, 2}});
    wanted.push_back({{0, 2 * c}, {4, 2}});
  }
  Store("w", {4, 2 * kColumns + 1}, stored);
  Want("w", {4, 2 * kColumns + 1}, wanted);
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->items.size(), 2u * kColumns);
}

}  // namespace
}  // namespace keepstep::reshard
