#include "reshard/save_plan.h"

#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reshard/box.h"

namespace keepstep::reshard {
namespace {

using testing::HasSubstr;

TensorShard Tensor(const std::string& fqn, Dims shape, Box box, std::vector<int32_t> replicas = {}) {
  static uint32_t next_buffer = 0;
  return TensorShard{{fqn, DType::kF32, shape, Component::kModel},
                     next_buffer++,
                     {RowMajorLayout(box, 4)},
                     std::move(replicas),
                     0,
                     false};
}

TensorShard Replicated(const std::string& fqn, int64_t size, std::vector<int32_t> replicas) {
  return Tensor(fqn, {size}, WholeBox({size}), std::move(replicas));
}

void ExpectRefused(const std::vector<RankShards>& ranks, absl::StatusCode code,
                   const std::vector<std::string>& says) {
  const absl::Status status = MakeSavePlan(ranks).status();
  EXPECT_EQ(status.code(), code) << status;
  for (const std::string& text : says) EXPECT_THAT(std::string(status.message()), HasSubstr(text));
}

TEST(SavePlan, EveryRankWritesItsOwnByGroupThenRegistration) {
  RankShards zero{
      0, {Tensor("b", {8}, Box{{0}, {4}}), Tensor("a", {2}, WholeBox({2})), Tensor("c", {1}, WholeBox({1}))}};
  zero.shards[0].group = 1;
  zero.shards[2].meta.component = Component::kOptimizer;
  const RankShards one{1, {Tensor("b", {8}, Box{{4}, {4}})}};
  const auto plan = MakeSavePlan({one, zero});
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->blobs.size(), 3u);
  EXPECT_EQ(plan->blobs[0].rank, 0);
  EXPECT_EQ(plan->blobs[0].component, Component::kModel);
  ASSERT_EQ(plan->blobs[0].items.size(), 2u);
  EXPECT_EQ(plan->blobs[0].items[0].shard, 1u);  // group 0 first
  EXPECT_EQ(plan->blobs[0].items[1].shard, 0u);
  EXPECT_EQ(plan->blobs[0].size_bytes, 8 + 16);
  EXPECT_EQ(plan->blobs[1].component, Component::kOptimizer);
  EXPECT_EQ(plan->blobs[2].rank, 1);
  EXPECT_TRUE(plan->replicas.empty());
  EXPECT_EQ(plan->fingerprint.size(), 32u);
}

// Rank 0 has 40 bytes of its own, so the largest replica goes to rank 1, the next to rank 2, and so on until
// all are level.
TEST(SavePlan, BalancesReplicasByWorstFitDecreasing) {
  const std::vector<int32_t> all = {0, 1, 2};
  std::vector<RankShards> ranks;
  for (int32_t r = 0; r < 3; ++r) {
    ranks.push_back({r, {Replicated("s", 2, all), Replicated("m", 5, all), Replicated("l", 8, all)}});
  }
  ranks[0].shards.push_back(Replicated("own", 10, {}));
  const auto plan = MakeSavePlan(ranks);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->blobs.size(), 3u);
  EXPECT_EQ(plan->blobs[0].size_bytes, 40);
  EXPECT_EQ(plan->blobs[1].size_bytes, 32);
  EXPECT_EQ(plan->blobs[2].size_bytes, 28);
  ASSERT_EQ(plan->replicas.size(), 3u);
  EXPECT_EQ(plan->replicas[0].items.size(), 3u);
  EXPECT_EQ(plan->replicas[0].writer_rank, 2);  // s joins m
  EXPECT_EQ(plan->replicas[2].writer_rank, 1);
  EXPECT_EQ(plan->replicas[2].items[2].rank, 2);
}

TEST(SavePlan, EqualLoadsGoToTheLowestRank) {
  const auto plan = MakeSavePlan({{0, {Replicated("w", 4, {0, 1})}}, {1, {Replicated("w", 4, {0, 1})}}});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->blobs[0].rank, 0);
}

// Replicas may list their boxes in another order; each set names the box's own index on each rank.
TEST(SavePlan, ReplicasMayOrderTheirBoxesDifferently) {
  TensorShard zero = Tensor("w", {4}, Box{{0}, {1}}, {0, 1});
  zero.boxes.push_back(RowMajorLayout(Box{{1}, {3}}, 4, 4));
  TensorShard one = zero;
  std::swap(one.boxes[0], one.boxes[1]);
  const auto plan = MakeSavePlan({{0, {zero}}, {1, {one}}});
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->replicas.size(), 2u);
  EXPECT_EQ(plan->replicas[0].items[0].box, 0u);
  EXPECT_EQ(plan->replicas[0].items[1].box, 1u);
}

// BatchNorm statistics of different replicas must not be mixed, nor compared.
TEST(SavePlan, ModuleBuffersComeWholeFromTheLowestRank) {
  std::vector<RankShards> ranks;
  for (int32_t r = 1; r < 4; ++r) {
    ranks.push_back({r, {Replicated("mean", 4, {1, 2, 3}), Replicated("var", 4, {1, 2, 3})}});
    for (TensorShard& shard : ranks.back().shards) shard.module_buffer = true;
  }
  const auto plan = MakeSavePlan(ranks);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->blobs.size(), 1u);
  EXPECT_EQ(plan->blobs[0].rank, 1);
  EXPECT_EQ(plan->blobs[0].items.size(), 2u);
  EXPECT_TRUE(plan->replicas.empty());
  ranks[2].shards[0].module_buffer = false;
  ExpectRefused(ranks, absl::StatusCode::kFailedPrecondition, {"tensor mean", "ranks 1 and 3"});
}

TEST(SavePlan, TiedWeightsAreStoredOnce) {
  std::vector<RankShards> ranks;
  for (int32_t r = 0; r < 2; ++r) {
    TensorShard head = Replicated("lm_head", 4, {0, 1});
    TensorShard embed = head;
    embed.meta.fqn = "embed";
    ranks.push_back({r, {head, embed}});
  }
  std::swap(ranks[1].shards[0], ranks[1].shards[1]);
  auto plan = MakeSavePlan(ranks);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->blobs.size(), 1u);
  ASSERT_EQ(plan->blobs[0].items.size(), 1u);
  EXPECT_EQ(plan->blobs[0].items[0].shard, 1u);
  EXPECT_EQ(plan->blobs[0].items[0].alias_shards, std::vector<uint32_t>{0});
  // Untied on one rank: the names may differ in value there, so each is stored.
  ranks[1].shards[0].buffer += 1000;
  plan = MakeSavePlan(ranks);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->replicas.size(), 2u);
}

TEST(SavePlan, TensorsWithoutElementsAreStoredOnce) {
  const TensorShard empty = Tensor("e", {3, 0}, WholeBox({3, 0}));
  const auto plan = MakeSavePlan({{0, {empty}}, {1, {empty}}});
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->blobs.size(), 1u);
  EXPECT_EQ(plan->blobs[0].items[0].size_bytes, 0);
  TensorShard no_box = empty;
  no_box.boxes.clear();
  ExpectRefused({{0, {no_box}}}, absl::StatusCode::kFailedPrecondition, {"tensor e"});
}

TEST(SavePlan, RefusesHoles) {
  ExpectRefused(
      {{0, {Tensor("w", {8, 2}, Box{{0, 0}, {4, 2}})}}, {1, {Tensor("w", {8, 2}, Box{{6, 0}, {2, 2}})}}},
      absl::StatusCode::kFailedPrecondition, {"tensor w", "4 of its 16", "[4:6, 0:2]"});
}

TEST(SavePlan, RefusesTensorsThatDiffer) {
  TensorShard other = Tensor("w", {4}, Box{{2}, {2}});
  other.meta.dtype = DType::kBF16;
  const TensorShard half = Tensor("w", {4}, Box{{0}, {2}});
  constexpr auto kCode = absl::StatusCode::kFailedPrecondition;
  ExpectRefused({{0, {half}}, {5, {other}}}, kCode, {"tensor w", "ranks 0 and 5", "F32 and BF16"});
  ExpectRefused({{0, {half}}, {1, {Tensor("w", {5}, Box{{2}, {3}})}}}, kCode, {"[4] and [5]"});
  other = Tensor("w", {4}, Box{{2}, {2}});
  other.meta.component = Component::kExtra;
  ExpectRefused({{0, {half}}, {1, {other}}}, kCode, {"model and extra"});
}

// Pipeline stages whose modules have the same local names look like replicas and are not.
TEST(SavePlan, RefusesUndeclaredReplicas) {
  constexpr auto kCode = absl::StatusCode::kInvalidArgument;
  const std::vector<std::string> says = {"undeclared replica", "tensor w", "ranks 0 and 1"};
  ExpectRefused({{0, {Replicated("w", 4, {})}}, {1, {Replicated("w", 4, {})}}}, kCode, says);
  ExpectRefused({{0, {Replicated("w", 4, {0, 1})}}, {1, {Replicated("w", 4, {})}}}, kCode, says);
  ExpectRefused({{0, {Replicated("w", 4, {})}}, {1, {Replicated("w", 4, {0, 1})}}}, kCode, says);
  ExpectRefused({{0, {Tensor("w", {4}, Box{{0}, {3}})}}, {1, {Tensor("w", {4}, Box{{2}, {2}})}}}, kCode,
                says);
  // Two sets of the same boxes are replicas of each other too.
  ExpectRefused({{0, {Replicated("w", 4, {0, 2})}},
                 {1, {Replicated("w", 4, {1, 3})}},
                 {2, {Replicated("w", 4, {0, 2})}},
                 {3, {Replicated("w", 4, {1, 3})}}},
                kCode, says);
}

TEST(SavePlan, RefusesBrokenReplicaSets) {
  constexpr auto kCode = absl::StatusCode::kFailedPrecondition;
  ExpectRefused({{0, {Replicated("w", 4, {0, 1})}}, {1, {}}}, kCode, {"tensor w", "rank 0", "rank 1"});
  ExpectRefused({{1, {Replicated("w", 4, {0, 1})}}}, kCode, {"tensor w", "rank 0 does not hold it"});
  ExpectRefused({{0, {Replicated("w", 4, {0, 1})}}, {1, {Tensor("w", {4}, Box{{0}, {3}}, {0, 1})}}}, kCode,
                {"ranks 0 and 1", "different boxes"});
  ExpectRefused({{0, {Replicated("w", 4, {0, 1})}}, {1, {Tensor("w", {4}, Box{{0}, {3}})}}}, kCode,
                {"ranks 0 and 1", "different replica sets"});
}

TEST(SavePlan, RefusesBadInput) {
  constexpr auto kCode = absl::StatusCode::kInvalidArgument;
  const TensorShard w = Replicated("w", 4, {});
  ExpectRefused({{0, {w}}, {0, {}}}, kCode, {"rank 0"});
  ExpectRefused({{-1, {w}}}, kCode, {"rank -1"});
  ExpectRefused({{0, {w, w}}}, kCode, {"tensor w", "twice"});
  ExpectRefused({{0, {Replicated("w", 4, {1, 2})}}}, kCode, {"tensor w", "rank 0"});
  ExpectRefused({{0, {Replicated("w", 4, {1, 0})}}}, kCode, {"not ascending"});
  ExpectRefused({{0, {Tensor("w", {4}, Box{{0}, {5}})}}}, kCode, {"outside the global shape"});
  ExpectRefused({{0, {Replicated("", 4, {})}}}, kCode, {"without a name"});
  TensorShard doubled = w;
  doubled.boxes.push_back(doubled.boxes[0]);
  ExpectRefused({{3, {doubled}}}, kCode, {"tensor w, rank 3", "overlap"});
}

TEST(SavePlan, OfNothingIsEmpty) {
  const auto plan = MakeSavePlan({});
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(plan->blobs.empty());
}

}  // namespace
}  // namespace keepstep::reshard
