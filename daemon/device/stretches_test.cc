#include "daemon/device/stretches.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace keepstep::daemon {
namespace {

constexpr int64_t kLimit = 1 << 20;

TEST(Stretches, NeighboursWithPaddingAreOne) {
  std::vector<PieceAt> pieces;
  for (uint64_t i = 0; i < 8; ++i) pieces.push_back({1, 7 * 512 - 512 * i, 500});
  const Stretches found = FindStretches(pieces, kLimit);
  ASSERT_EQ(found.stretches.size(), 1u);
  EXPECT_EQ(found.stretches[0].offset_bytes, 0u);
  EXPECT_EQ(found.stretches[0].size_bytes, 7 * 512 + 500);
  EXPECT_EQ(found.stretches[0].pieces, (std::vector<size_t>{7, 6, 5, 4, 3, 2, 1, 0}));
  EXPECT_TRUE(found.alone.empty());
}

TEST(Stretches, WhatLiesFarOrElsewhereOrIsLargeIsAlone) {
  std::vector<PieceAt> pieces;
  for (uint64_t i = 0; i < 8; ++i) pieces.push_back({1, i * (kMaxGapBytes + 101), 100});  // too far apart by one
  for (uint64_t i = 0; i < 8; ++i) pieces.push_back({2 + i, 0, 100});
  pieces.push_back({20, 0, kMaxSmallBytes + 1});
  for (uint64_t i = 0; i < kFewestPieces - 1; ++i) pieces.push_back({30, i * 100, 100});
  const Stretches found = FindStretches(pieces, kLimit);
  EXPECT_TRUE(found.stretches.empty());
  ASSERT_EQ(found.alone.size(), pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) EXPECT_EQ(found.alone[i], i);
}

TEST(Stretches, EveryPieceIsInOnePlaceThatHoldsIt) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 300; ++round) {
    std::vector<PieceAt> pieces(random() % 60);
    for (PieceAt& piece : pieces) {
      piece = {random() % 3, random() % 60'000, static_cast<int64_t>(1 + random() % (2 * kMaxSmallBytes / 100))};
      if (random() % 10 == 0) piece.size_bytes *= 100;
    }
    const int64_t limit_bytes = 4096 << random() % 9;
    const Stretches found = FindStretches(pieces, limit_bytes);
    std::multiset<size_t> seen(found.alone.begin(), found.alone.end());
    for (const Stretch& stretch : found.stretches) {
      EXPECT_LE(stretch.size_bytes, limit_bytes);
      EXPECT_GE(stretch.pieces.size(), kFewestPieces);
      uint64_t end = stretch.offset_bytes;
      for (size_t index : stretch.pieces) {
        const PieceAt& piece = pieces[index];
        seen.insert(index);
        EXPECT_EQ(piece.memory, stretch.memory);
        EXPECT_GE(piece.offset_bytes, stretch.offset_bytes);
        EXPECT_LE(piece.offset_bytes, end + kMaxGapBytes);
        end = std::max(end, piece.offset_bytes + piece.size_bytes);
      }
      EXPECT_EQ(end, stretch.offset_bytes + stretch.size_bytes);
    }
    ASSERT_EQ(seen.size(), pieces.size());
    for (size_t i = 0; i < pieces.size(); ++i) EXPECT_EQ(seen.count(i), 1u);
  }
}

}  // namespace
}  // namespace keepstep::daemon
