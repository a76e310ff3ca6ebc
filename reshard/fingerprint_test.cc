#include "reshard/fingerprint.h"

#include <functional>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::reshard {
namespace {

RankShards Rank() {
  return RankShards{1,
                    {TensorShard{{"w", DType::kBF16, {4, 6}, Component::kModel},
                                 0,
                                 {RowMajorLayout(Box{{2, 0}, {2, 6}}, 2)},
                                 {1, 3},
                                 2,
                                 false},
                     TensorShard{{"b", DType::kF32, {6}, Component::kOptimizer},
                                 1,
                                 {RowMajorLayout(WholeBox({6}), 4)},
                                 {},
                                 0,
                                 false}}};
}

// The published values of MurmurHash3 x64 128: the hash is what its documentation says.
TEST(Fingerprint, HashIsMurmur3) {
  EXPECT_EQ(StableHash128(""), "00000000000000000000000000000000");
  EXPECT_EQ(StableHash128("hello"), "029bbd41b3a7d8cb191dae486a901e5b");
  EXPECT_EQ(StableHash128("The quick brown fox jumps over the lazy dog"), "6c1b07bc7bbc4be347939ac4a93c437a");
}

// Catalogs hold these: another value here means that every layout on disk is unknown.
TEST(Fingerprint, IsTheSameInEveryVersion) {
  EXPECT_EQ(Fingerprint(Rank()), "3cc895b9cd9f3689b22bd24656d4eba7");
  EXPECT_EQ(LayoutFingerprint({Rank()}), "8caa71c18213a1bff628dbfda59c0f8b");
}

TEST(Fingerprint, ChangesWithEverythingThatThePlanReads) {
  const std::vector<std::function<void(RankShards&)>> changes = {
      [](RankShards& r) { r.rank = 2; },
      [](RankShards& r) { r.shards[0].meta.fqn = "v"; },
      [](RankShards& r) { r.shards[0].meta.dtype = DType::kF16; },
      [](RankShards& r) {
        r.shards[0].meta.shape = {6, 4};
      },
      [](RankShards& r) { r.shards[0].meta.component = Component::kExtra; },
      [](RankShards& r) {
        r.shards[0].boxes[0].box.origin = {1, 0};
      },
      [](RankShards& r) { r.shards[0].boxes.clear(); },
      [](RankShards& r) {
        r.shards[0].replica_ranks = {1, 2};
      },
      [](RankShards& r) { r.shards[0].group = 0; },
      [](RankShards& r) { r.shards[0].module_buffer = true; },
      [](RankShards& r) { std::swap(r.shards[0], r.shards[1]); },
      [](RankShards& r) { r.shards.pop_back(); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    RankShards changed = Rank();
    changes[i](changed);
    EXPECT_NE(Fingerprint(changed), Fingerprint(Rank())) << "change " << i;
  }
}

TEST(Fingerprint, IgnoresWhereTheMemoryIs) {
  RankShards moved = Rank();
  moved.shards[0].buffer = 9;
  moved.shards[0].boxes[0].offset_bytes = 512;
  moved.shards[0].boxes[0].strides_bytes = {2, 8};
  EXPECT_EQ(Fingerprint(moved), Fingerprint(Rank()));
}

// Two names that become one memory change what is stored, so they change the plan.
TEST(Fingerprint, SeesTies) {
  RankShards apart = Rank();
  apart.shards.push_back(apart.shards[1]);
  apart.shards[2].meta.fqn = "c";
  apart.shards[2].buffer = 2;
  RankShards tied = apart;
  tied.shards[2].buffer = 1;
  EXPECT_NE(Fingerprint(apart), Fingerprint(tied));
}

TEST(Fingerprint, OfALayoutDoesNotDependOnTheOrderOfRanks) {
  RankShards other = Rank();
  other.rank = 3;
  EXPECT_EQ(LayoutFingerprint({Rank(), other}), LayoutFingerprint({other, Rank()}));
  EXPECT_NE(LayoutFingerprint({Rank()}), LayoutFingerprint({Rank(), other}));
}

}  // namespace
}  // namespace keepstep::reshard
