#include "reshard/layout.h"

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::reshard {
namespace {

using Boxes = std::vector<Box>;

PlacedShard Place(const Mesh& mesh, const std::vector<Placement>& placements, const Dims& shape,
                  int32_t rank) {
  const auto placed = ShardOf(mesh, placements, shape, rank);
  EXPECT_TRUE(placed.ok()) << placed.status();
  return placed.ok() ? *placed : PlacedShard{};
}

// torch.chunk of 10 by 4 gives 3, 3, 3, 1; of 5 by 4 gives 2, 2, 1 and nothing for the last rank.
TEST(Layout, ChunksUnevenlyAsTorchDoes) {
  const Mesh mesh{{"tp"}, {4}};
  EXPECT_EQ(Place(mesh, {Shard(0)}, {10}, 0).boxes, (Boxes{{{0}, {3}}}));
  EXPECT_EQ(Place(mesh, {Shard(0)}, {10}, 3).boxes, (Boxes{{{9}, {1}}}));
  EXPECT_EQ(Place(mesh, {Shard(0)}, {5}, 2).boxes, (Boxes{{{4}, {1}}}));
  const PlacedShard none = Place(mesh, {Shard(0)}, {5}, 3);
  EXPECT_EQ(none.local_shape, (Dims{0}));
  ASSERT_EQ(none.boxes.size(), 1u);
  EXPECT_TRUE(IsEmpty(none.boxes[0]));
}

TEST(Layout, ShardsTwoDimensionsAndTheSameOneTwice) {
  const Mesh mesh{{"dp", "tp"}, {2, 2}};
  EXPECT_EQ(Place(mesh, {Shard(0), Shard(1)}, {4, 6}, 1).boxes, (Boxes{{{0, 3}, {2, 3}}}));
  EXPECT_EQ(Place(mesh, {Shard(0), Shard(0)}, {8, 2}, 2).boxes, (Boxes{{{4, 0}, {2, 2}}}));
}

TEST(Layout, ReplicasDifferInReplicatedCoordinatesOnly) {
  const Mesh mesh{{"pp", "dp", "tp"}, {2, 2, 2}};
  const PlacedShard placed = Place(mesh, {Replicate(), Shard(0), Replicate()}, {4}, 5);
  EXPECT_EQ(placed.replica_ranks, (std::vector<int32_t>{0, 1, 4, 5}));
  EXPECT_EQ(placed.boxes, (Boxes{{{0}, {2}}}));
  EXPECT_TRUE(Place(mesh, {Shard(0), Shard(0), Shard(0)}, {8}, 5).replica_ranks.empty());
  EXPECT_TRUE(Place(Mesh{{"dp"}, {1}}, {Replicate()}, {8}, 0).replica_ranks.empty());
}

// FSDP2 over tensor parallelism, [_StridedShard(0, split_factor=2), Shard(0)] on a (2, 2) mesh: the tensor is
// first split over tp, then each half over fsdp. Rank (fsdp 1, tp 0) holds the second quarter.
TEST(Layout, StridedShardIsSplitAfterWhatIsToItsRight) {
  const Mesh mesh{{"fsdp", "tp"}, {2, 2}};
  EXPECT_EQ(Place(mesh, {StridedShard(0, 2), Shard(0)}, {8}, 2).boxes, (Boxes{{{2}, {2}}}));
  EXPECT_EQ(Place(mesh, {StridedShard(0, 2), Shard(0)}, {8}, 1).boxes, (Boxes{{{4}, {2}}}));
  // Uneven: tp splits 7 into 4 and 3, fsdp splits the 3 into 2 and 1.
  EXPECT_EQ(Place(mesh, {StridedShard(0, 2), Shard(0)}, {7}, 1).boxes, (Boxes{{{4}, {2}}}));
  EXPECT_EQ(Place(mesh, {StridedShard(0, 2), Shard(0)}, {7}, 3).boxes, (Boxes{{{6}, {1}}}));
}

// On its own (the tensor-parallel dimension gathered) a strided shard is several boxes of the global tensor.
TEST(Layout, StridedShardAloneIsSeveralBoxes) {
  const Mesh mesh{{"fsdp"}, {2}};
  const PlacedShard placed = Place(mesh, {StridedShard(0, 2)}, {8, 3}, 1);
  EXPECT_EQ(placed.boxes, (Boxes{{{2, 0}, {2, 3}}, {{6, 0}, {2, 3}}}));
  EXPECT_EQ(placed.local_origins, (std::vector<Dims>{{0, 0}, {2, 0}}));
  EXPECT_EQ(placed.local_shape, (Dims{4, 3}));
  const std::vector<LocalBox> local =
      PlaceInBuffer(placed, 100, ContiguousStridesBytes(placed.local_shape, 4));
  ASSERT_EQ(local.size(), 2u);
  EXPECT_EQ(local[1].offset_bytes, 100 + 2 * 12);
  EXPECT_EQ(local[1].strides_bytes, (Dims{12, 4}));
}

// A client chooses strides and offset: what they reach is compared, not computed, before it is used.
TEST(Layout, RefusesAPlaceBeyond64Bits) {
  const PlacedShard placed = Place(Mesh{{"fsdp"}, {2}}, {StridedShard(0, 2)}, {8, 3}, 1);
  EXPECT_TRUE(ValidatePlace(placed, 100, {12, 4}).ok());
  EXPECT_TRUE(ValidatePlace(placed, 100, {-12, -4}).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(ValidatePlace(placed, 0, {INT64_MIN, 4})));
  EXPECT_TRUE(absl::IsInvalidArgument(ValidatePlace(placed, 0, {4, INT64_MAX / 2})));
  EXPECT_TRUE(absl::IsInvalidArgument(ValidatePlace(placed, INT64_MAX, {0, 1})));
}

// A client chooses the split factors: several in a row must not multiply.
TEST(Layout, StridedShardsInARowTakeTimeThatAdds) {
  Mesh mesh{.names = {}, .sizes = Dims(10, 2)};
  std::vector<Placement> placements;
  for (int i = 0; i < 10; ++i) placements.push_back(StridedShard(0, 65536 - i));
  const auto placed = ShardOf(mesh, placements, {int64_t{1} << 62}, 0);
  EXPECT_TRUE(absl::IsInvalidArgument(placed.status())) << placed.status();
}

TEST(Layout, ScalarsAndEmptyTensors) {
  const Mesh mesh{{"dp"}, {2}};
  EXPECT_EQ(Place(mesh, {Replicate()}, {}, 1).boxes, (Boxes{Box{}}));
  EXPECT_EQ(Place(mesh, {Shard(1)}, {3, 0}, 1).boxes, (Boxes{{{0, 0}, {3, 0}}}));
}

TEST(Layout, RefusesWhatMakesNoSense) {
  const Mesh mesh{{"tp"}, {2}};
  const auto code = [](const Mesh& m, const std::vector<Placement>& p, const Dims& shape, int32_t rank) {
    return ShardOf(m, p, shape, rank).status().code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code(mesh, {}, {4}, 0), kInvalid);
  EXPECT_EQ(code(mesh, {Shard(1)}, {4}, 0), kInvalid);
  EXPECT_EQ(code(mesh, {Shard(-1)}, {4}, 0), kInvalid);
  EXPECT_EQ(code(mesh, {Shard(0)}, {}, 0), kInvalid);
  EXPECT_EQ(code(mesh, {StridedShard(0, 0)}, {4}, 0), kInvalid);
  EXPECT_EQ(code(mesh, {Shard(0)}, {4}, 2), kInvalid);
  EXPECT_EQ(code(mesh, {Shard(0)}, {4}, -1), kInvalid);
  EXPECT_EQ(code(mesh, {Shard(0)}, {-4}, 0), kInvalid);
  EXPECT_EQ(code(Mesh{{"dp"}, {0}}, {Shard(0)}, {4}, 0), kInvalid);
  EXPECT_EQ(code(Mesh{{"dp", "tp"}, {1 << 20, 2}}, {Shard(0), Shard(0)}, {4}, 0), kInvalid);
  EXPECT_EQ(code(mesh, {StridedShard(0, 65536)}, {1 << 18}, 0), absl::StatusCode::kOk);
  EXPECT_EQ(code(Mesh{{"a", "b"}, {2, 2}}, {StridedShard(0, 1000), StridedShard(1, 1000)}, {8000, 8000}, 0),
            kInvalid);
}

}  // namespace
}  // namespace keepstep::reshard
