#include "reshard/tensor.h"

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::reshard {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

TensorShard Shard(Dims shape, std::vector<LocalBox> boxes) {
  return TensorShard{{"w", DType::kF32, shape, Component::kModel}, 0, boxes, {}, 0, false};
}

absl::StatusCode Code(const TensorShard& shard, int64_t buffer_size_bytes) {
  return ValidateShard(shard, buffer_size_bytes).code();
}

TEST(Tensor, ContiguousStrides) {
  EXPECT_EQ(ContiguousStridesBytes({2, 3, 4}, 4), (Dims{48, 16, 4}));
  EXPECT_EQ(ContiguousStridesBytes({2, 0, 4}, 2), (Dims{8, 8, 2}));
  EXPECT_TRUE(ContiguousStridesBytes({}, 8).empty());
}

// The boxes of a flat shard follow one another in memory, each packed.
TEST(Tensor, FlatShardLiesContiguously) {
  const std::vector<LocalBox> boxes = FlatShardBoxes(WholeBox({5, 4}), 3, 14, 2, 100);
  ASSERT_EQ(boxes.size(), 3u);
  EXPECT_EQ(boxes[0].offset_bytes, 100);
  EXPECT_EQ(boxes[1].offset_bytes, 102);
  EXPECT_EQ(boxes[2].offset_bytes, 118);
  EXPECT_EQ(boxes[1].box, (Box{{1, 0}, {2, 4}}));
  EXPECT_EQ(boxes[1].strides_bytes, (Dims{8, 2}));
}

TEST(Tensor, FlatShardOfNothing) {
  EXPECT_TRUE(FlatShardBoxes(WholeBox({5}), 2, 2, 4, 0).empty());
  ASSERT_EQ(FlatShardBoxes(WholeBox({5, 0}), 0, 0, 4, 0).size(), 1u);
}

TEST(Tensor, NamesAreUtf8WithoutControlCharacters) {
  for (const char* good : {"w", "params/layer_0/kernel", "größe", "层.权重", "😀", "a b#%"}) {
    EXPECT_TRUE(ValidateTensorName(good).ok()) << good;
  }
  EXPECT_TRUE(ValidateTensorName(std::string(1024, 'x')).ok());
  const std::vector<std::string> bad = {"",
                                        std::string(1025, 'x'),
                                        std::string("a\0b", 3),
                                        "a\nb",
                                        "\x7f",
                                        "\xc2\x85",           // C1 control
                                        "\xff",               // no lead byte
                                        "\xc3",               // cut short
                                        "\xc0\xaf",           // overlong
                                        "\xe0\x80\xaf",       // overlong
                                        "\xed\xa0\x80",       // surrogate
                                        "\xf4\x90\x80\x80",   // past U+10FFFF
                                        "\xf0\x80\x80\x80"};  // overlong
  for (const std::string& name : bad) {
    EXPECT_EQ(ValidateTensorName(name).code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

TEST(Tensor, RefusesSizesBeyond64Bits) {
  EXPECT_TRUE(ValidateMeta({"w", DType::kF32, {kMax / 4}, Component::kModel}).ok());
  EXPECT_EQ(ValidateMeta({"w", DType::kF32, {kMax / 2}, Component::kModel}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ValidateMeta({"w", DType::kF32, {kMax / 2, 0}, Component::kModel}).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ValidateShard, AcceptsExactFits) {
  EXPECT_EQ(Code(Shard({2, 3}, {RowMajorLayout(WholeBox({2, 3}), 4)}), 24), absl::StatusCode::kOk);
  EXPECT_EQ(Code(Shard({2, 3}, {{WholeBox({2, 3}), 20, {-12, -4}}}), 24), absl::StatusCode::kOk);
  EXPECT_EQ(Code(Shard({0}, {RowMajorLayout(WholeBox({0}), 4, 24)}), 24), absl::StatusCode::kOk);
  EXPECT_EQ(Code(Shard({}, {RowMajorLayout(Box{}, 4)}), 4), absl::StatusCode::kOk);
  EXPECT_EQ(Code(Shard({2}, {}), 0), absl::StatusCode::kOk);
}

TEST(ValidateShard, RefusesBytesOutsideTheBuffer) {
  const Box box = WholeBox({2, 3});
  const std::vector<LocalBox> outside = {{box, 4, {12, 4}},        {box, -4, {12, 4}},   {box, 0, {16, 4}},
                                         {box, 16, {-12, -4}},     {box, 0, {12, kMax}}, {box, kMax, {12, 4}},
                                         {box, 0, {12, -kMax - 1}}};
  for (const LocalBox& local : outside) {
    EXPECT_EQ(Code(Shard({2, 3}, {local}), 24), absl::StatusCode::kOutOfRange) << local.offset_bytes;
  }
  EXPECT_EQ(Code(Shard({0}, {RowMajorLayout(WholeBox({0}), 4, 25)}), 24), absl::StatusCode::kOutOfRange);
}

TEST(ValidateShard, RefusesBadBoxesStridesAndReplicas) {
  const Box half{{0}, {2}};
  const LocalBox local = RowMajorLayout(half, 4);
  EXPECT_EQ(Code(Shard({1}, {local}), 8), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Code(Shard({4}, {local, RowMajorLayout(Box{{1}, {2}}, 4, 8)}), 16),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Code(Shard({4}, {{half, 0, {}}}), 8), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      Code(Shard({4}, std::vector<LocalBox>(kMaxBoxesPerShard + 1, RowMajorLayout(Box{{0}, {0}}, 4))), 8),
      absl::StatusCode::kInvalidArgument);
  TensorShard shard = Shard({4}, {local});
  for (const std::vector<int32_t>& ranks : {std::vector<int32_t>{1, 0}, {1, 1}, {-1, 0}}) {
    shard.replica_ranks = ranks;
    EXPECT_EQ(Code(shard, 8), absl::StatusCode::kInvalidArgument);
  }
  const absl::Status status = ValidateShard(Shard({1}, {local}), 8);
  EXPECT_EQ(status.message().substr(0, 10), "tensor w: ");
}

}  // namespace
}  // namespace keepstep::reshard
