#include "proto/convert.h"

#include <functional>
#include <string>

#include "gtest/gtest.h"

namespace keepstep::proto {
namespace {

v1::Shard Whole(std::initializer_list<int64_t> shape) {
  v1::Shard shard;
  shard.mutable_meta()->set_fqn("layer.weight");
  shard.mutable_meta()->set_dtype("F32");
  auto* box = shard.mutable_boxes()->add_boxes()->mutable_box();
  for (int64_t extent : shape) {
    shard.mutable_meta()->add_shape(extent);
    box->add_origin(0);
    box->add_shape(extent);
  }
  return shard;
}

absl::StatusOr<reshard::TensorShard> Convert(const v1::Shard& shard, int32_t rank = 0, int32_t world = 2) {
  return ShardFrom(shard, *MeshFrom({}, world), rank, world);
}

TEST(Convert, BoxesWithoutStridesAreContiguous) {
  auto shard = Convert(Whole({3, 4}));
  ASSERT_TRUE(shard.ok()) << shard.status();
  EXPECT_EQ(shard->boxes[0].strides_bytes, (reshard::Dims{16, 4}));
}

TEST(Convert, FlatRangesBecomeBoxesThatHoldTheRange) {
  v1::Shard from = Whole({3, 4});
  from.mutable_flat()->set_begin(2);
  from.mutable_flat()->set_end(11);
  auto shard = Convert(from);
  ASSERT_TRUE(shard.ok()) << shard.status();
  int64_t elements = 0;
  for (const auto& box : shard->boxes) elements += reshard::NumElements(box.box);
  EXPECT_EQ(elements, 9);
}

TEST(Convert, PlacedTensorsGetTheirReplicasFromTheMesh) {
  v1::Shard from = Whole({4, 4});
  from.mutable_placed()->add_placements()->set_kind(v1::Placement::REPLICATE);
  auto replicated = Convert(from, 1);
  ASSERT_TRUE(replicated.ok()) << replicated.status();
  EXPECT_EQ(replicated->replica_ranks, (std::vector<int32_t>{0, 1}));
  from.mutable_placed()->mutable_placements(0)->set_kind(v1::Placement::SHARD);
  auto sharded = Convert(from, 1);
  ASSERT_TRUE(sharded.ok()) << sharded.status();
  EXPECT_EQ(sharded->boxes[0].box.origin, (reshard::Dims{2, 0}));
}

TEST(Convert, MetaAndBoxSurviveTheWayBack) {
  auto shard = Convert(Whole({3, 4}));
  ASSERT_TRUE(shard.ok());
  EXPECT_EQ(MetaFrom(ToProto(shard->meta))->fqn, "layer.weight");
  EXPECT_EQ(*BoxFrom(ToProto(shard->boxes[0].box)), shard->boxes[0].box);
}

// Whoever intersects a box adds origin and extent.
TEST(Convert, ABoxThatEndsBeyond64BitsIsRefused) {
  v1::Box box;
  box.add_origin(int64_t{1} << 62);
  box.add_shape(int64_t{1} << 62);
  EXPECT_TRUE(absl::IsInvalidArgument(BoxFrom(box).status()));
  box.set_shape(0, (int64_t{1} << 62) - 1);
  EXPECT_TRUE(BoxFrom(box).ok());
}

struct Bad {
  const char* name;
  std::function<void(v1::Shard&)> spoil;
};

class BadShard : public testing::TestWithParam<Bad> {};

TEST_P(BadShard, IsRefused) {
  v1::Shard shard = Whole({3, 4});
  GetParam().spoil(shard);
  EXPECT_EQ(Convert(shard).status().code(), absl::StatusCode::kInvalidArgument) << Convert(shard).status();
}

INSTANTIATE_TEST_SUITE_P(
    All, BadShard,
    testing::Values(
        Bad{"empty_name", [](v1::Shard& s) { s.mutable_meta()->set_fqn(""); }},
        Bad{"control_characters", [](v1::Shard& s) { s.mutable_meta()->set_fqn("a\nb"); }},
        Bad{"long_name", [](v1::Shard& s) { s.mutable_meta()->set_fqn(std::string(1025, 'x')); }},
        Bad{"unknown_dtype", [](v1::Shard& s) { s.mutable_meta()->set_dtype("F31"); }},
        Bad{"negative_shape", [](v1::Shard& s) { s.mutable_meta()->set_shape(0, -1); }},
        Bad{"product_overflow",
            [](v1::Shard& s) {
              s.mutable_meta()->set_shape(0, int64_t{1} << 62);
              s.mutable_meta()->set_shape(1, int64_t{1} << 62);
            }},
        Bad{"too_many_dimensions",
            [](v1::Shard& s) {
              for (int i = 0; i < 63; ++i) s.mutable_meta()->add_shape(1);
            }},
        Bad{"box_outside",
            [](v1::Shard& s) { s.mutable_boxes()->mutable_boxes(0)->mutable_box()->set_origin(0, 1); }},
        Bad{"ragged_box",
            [](v1::Shard& s) { s.mutable_boxes()->mutable_boxes(0)->mutable_box()->add_origin(0); }},
        Bad{"nowhere", [](v1::Shard& s) { s.clear_boxes(); }},
        Bad{"flat_past_the_end", [](v1::Shard& s) { s.mutable_flat()->set_end(13); }},
        Bad{"flat_backwards",
            [](v1::Shard& s) {
              s.mutable_flat()->set_begin(5);
              s.mutable_flat()->set_end(4);
            }},
        Bad{"placements_and_mesh_differ", [](v1::Shard& s) { s.mutable_placed(); }},
        Bad{"replicas_outside_the_world",
            [](v1::Shard& s) {
              s.add_replica_ranks(0);
              s.add_replica_ranks(2);
            }},
        Bad{"replicas_without_itself", [](v1::Shard& s) { s.add_replica_ranks(1); }},
        Bad{"group", [](v1::Shard& s) { s.set_group(256); }}),
    [](const auto& info) { return info.param.name; });

// Every listing of a job carries the labels of its checkpoints: a save must not make it too large to be sent.
TEST(Convert, LabelsAreBounded) {
  google::protobuf::Map<std::string, double> metrics;
  google::protobuf::RepeatedPtrField<std::string> tags;
  metrics["loss"] = 1;
  *tags.Add() = std::string(1000, 't');
  EXPECT_TRUE(CheckLabels(metrics, tags).ok());
  *tags.Add() = std::string(16 << 10, 't');
  EXPECT_EQ(CheckLabels(metrics, tags).code(), absl::StatusCode::kResourceExhausted);
  tags.Clear();
  for (int i = 0; i < 65; ++i) *tags.Add() = "t";
  EXPECT_FALSE(CheckLabels(metrics, tags).ok());
  tags.Clear();
  for (int i = 0; i < 257; ++i) metrics[std::to_string(i)] = 0;
  EXPECT_FALSE(CheckLabels(metrics, tags).ok());
}

TEST(Convert, MeshesMustBeTheWorld) {
  v1::Mesh mesh;
  mesh.add_names("dp");
  mesh.add_sizes(2);
  EXPECT_TRUE(MeshFrom(mesh, 2).ok());
  EXPECT_FALSE(MeshFrom(mesh, 4).ok());
  mesh.add_sizes(2);
  EXPECT_FALSE(MeshFrom(mesh, 4).ok()) << "a dimension without a name";
  EXPECT_FALSE(MeshFrom({}, 0).ok());
  EXPECT_FALSE(MeshFrom({}, kMaxWorldSize + 1).ok());
}

}  // namespace
}  // namespace keepstep::proto
