#include "reshard/alias.h"

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::reshard {
namespace {

TensorShard Tensor(const char* fqn, int64_t offset_bytes) {
  return TensorShard{{fqn, DType::kF32, {4}, Component::kModel},
                     7,
                     {RowMajorLayout(WholeBox({4}), 4, offset_bytes)},
                     {},
                     0,
                     false};
}

TEST(Alias, TheSmallestNameStandsForTheMemory) {
  const RankShards rank{0, {Tensor("lm_head", 0), Tensor("norm", 16), Tensor("embed", 0)}};
  EXPECT_EQ(AliasesOf(rank), (std::vector<uint32_t>{2, 1, 2}));
}

TEST(Alias, AnyDifferenceInPlaceOrKindSeparates) {
  std::vector<TensorShard> others(6, Tensor("b", 0));
  others[0].buffer = 8;
  others[1].meta.dtype = DType::kI32;
  others[2].group = 1;
  others[3].boxes[0].strides_bytes = {8};
  others[4].meta.component = Component::kOptimizer;
  others[5].replica_ranks = {0, 1};
  for (const TensorShard& other : others) {
    EXPECT_EQ(AliasesOf(RankShards{0, {Tensor("a", 0), other}}), (std::vector<uint32_t>{0, 1}));
  }
}

TEST(Alias, ShardsWithoutElementsShareNothing) {
  TensorShard a = Tensor("a", 0);
  a.boxes.clear();
  TensorShard b = a;
  b.meta.fqn = "b";
  EXPECT_FALSE(HasElements(a));
  EXPECT_EQ(AliasesOf(RankShards{0, {a, b}}), (std::vector<uint32_t>{0, 1}));
}

}  // namespace
}  // namespace keepstep::reshard
