// Small parts of the data plane: the grid of chunks, fills, conversions, samples of replicas.

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "daemon/chunk_grid.h"
#include "daemon/dtype_convert.h"
#include "daemon/local_port.h"
#include "daemon/replica_check.h"
#include "gtest/gtest.h"
#include "storage/digest.h"

namespace keepstep::daemon {
namespace {

using reshard::DType;

TEST(ChunkGrid, TilesTheDataWithWholeBlocksThatFit) {
  const std::vector<int64_t> sizes = {3, 0, 5 << 20, 4095, 1, (1 << 20) + 1, 7 << 20, 9};
  const std::vector<Chunk> chunks = MakeChunks(4096, sizes, MinChunkBufferBytes());
  int64_t at = 4096, blocks = 0;
  for (const Chunk& chunk : chunks) {
    EXPECT_EQ(chunk.begin, at);
    EXPECT_LE(ImageEnd(chunk) - ImageBegin(chunk), MinChunkBufferBytes());
    at = chunk.end;
    blocks += chunk.block_count;
  }
  int64_t total = 4096, total_blocks = 0;
  for (int64_t size : sizes) {
    total += size;
    total_blocks += storage::BlockCount(size);
  }
  EXPECT_EQ(at, total);
  EXPECT_EQ(blocks, total_blocks);
  EXPECT_TRUE(MakeChunks(4096, {0, 0}, MinChunkBufferBytes()).empty());
}

template <typename To, typename From>
To Convert(DType stored, DType local, From value) {
  To to;
  ConvertElements(stored, local, 1, reinterpret_cast<const std::byte*>(&value),
                  reinterpret_cast<std::byte*>(&to));
  return to;
}

TEST(DTypeConvert, RoundsToNearestEvenAndKeepsTheEdges) {
  EXPECT_EQ((Convert<uint16_t>(DType::kF32, DType::kF16, 1.0f)), 0x3c00);
  EXPECT_EQ((Convert<uint16_t>(DType::kF32, DType::kF16, 65504.0f)), 0x7bff);
  EXPECT_EQ((Convert<uint16_t>(DType::kF32, DType::kF16, 65520.0f)), 0x7c00);
  EXPECT_EQ((Convert<uint16_t>(DType::kF32, DType::kF16, -0.0f)), 0x8000);
  EXPECT_EQ((Convert<uint16_t>(DType::kF32, DType::kF16, 5.9604645e-8f)), 0x0001);
  EXPECT_EQ((Convert<uint16_t>(DType::kF32, DType::kF16, 2.9e-8f)), 0x0000);
  EXPECT_EQ((Convert<uint16_t>(DType::kF32, DType::kBF16, 1.00390625f)), 0x3f80);  // a tie: to even
  EXPECT_EQ((Convert<uint16_t>(DType::kF32, DType::kBF16, 1.01171875f)), 0x3f82);  // a tie: to even
  EXPECT_EQ((Convert<float>(DType::kBF16, DType::kF32, uint16_t{0xc049})), -3.140625f);
  EXPECT_EQ((Convert<double>(DType::kF16, DType::kF64, uint16_t{0x0001})), std::ldexp(1.0, -24));
  EXPECT_TRUE(std::isnan(Convert<float>(DType::kF16, DType::kF32, uint16_t{0x7e00})));
  EXPECT_EQ((Convert<uint16_t>(DType::kF64, DType::kBF16, std::numeric_limits<double>::max())), 0x7f80);
  EXPECT_EQ(CheckConversion(DType::kI32, DType::kF32).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(CheckConversion(DType::kI32, DType::kI32).ok());
}

TEST(DTypeConvert, EveryHalfSurvivesARoundTrip) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      const auto half = static_cast<uint16_t>(bits);
      const float wide = Convert<float>(dtype, DType::kF32, half);
      if (std::isnan(wide)) continue;
      ASSERT_EQ((Convert<uint16_t>(DType::kF32, dtype, wide)), half);
    }
  }
}

class ReplicaCheckTest : public testing::Test {
 protected:
  static constexpr int64_t kElements = 100000;

  ReplicaCheckTest() : memory_(2, std::vector<uint8_t>(kElements, 3)) {
    std::vector<reshard::RankShards> ranks(2);
    for (int32_t r = 0; r < 2; ++r) {
      const reshard::TensorMeta meta{"norm.weight", DType::kU8, {kElements}, reshard::Component::kModel};
      ranks[r].rank = r;
      ranks[r].shards.push_back(
          {meta, 0, {reshard::RowMajorLayout(reshard::WholeBox({kElements}), 1)}, {0, 1}, 0, false});
      ports_.push_back({std::make_shared<reshard::RankShards>(ranks[r]),
                        {reinterpret_cast<uint64_t>(memory_[r].data())},
                        std::make_shared<LocalPort>()});
    }
    plan_ = *reshard::MakeSavePlan(ranks);
  }

  std::vector<std::vector<uint8_t>> memory_;
  std::vector<RankMemory> ports_;
  reshard::SavePlan plan_;
  Cancellation cancel_;
};

TEST_F(ReplicaCheckTest, EqualCopiesPass) {
  EXPECT_TRUE(CheckReplicas(plan_, ports_, cancel_).ok());
  EXPECT_TRUE(CheckReplicas(plan_, absl::MakeSpan(ports_).subspan(0, 1), cancel_).ok());
}

// Pipeline stages with the same local names look like replicas and are not.
TEST_F(ReplicaCheckTest, DifferentCopiesAreNamed) {
  for (const int64_t at : {int64_t{0}, kElements / 2, kElements - 1}) {
    memory_[1][at] = 4;
    const absl::Status status = CheckReplicas(plan_, ports_, cancel_);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(status.message().find(kReplicaMismatch), 0u) << status;
    EXPECT_NE(std::string(status.message()).find("norm.weight"), std::string::npos);
    memory_[1][at] = 3;
  }
}

}  // namespace
}  // namespace keepstep::daemon
