#include "reshard/strided.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::reshard {
namespace {

using ByteRun = std::tuple<int64_t, int64_t, int64_t>;

std::vector<ByteRun> RunsOf(const Box& region, const LocalBox& src, const LocalBox& dst,
                            int64_t item_size_bytes) {
  std::vector<ByteRun> runs;
  ForEachRun(region, src, dst, item_size_bytes, [&](int64_t from, int64_t to, int64_t size) {
    runs.push_back({from, to, size});
  });
  EXPECT_EQ(static_cast<int64_t>(runs.size()), RunCount(MakeRunNest(region, src, dst, item_size_bytes)));
  return runs;
}

TEST(Strided, PackedToPackedIsOneRun) {
  const Box box{{4, 0, 8}, {3, 5, 7}};
  const LocalBox packed = RowMajorLayout(box, 4, 100);
  EXPECT_EQ(RunsOf(box, packed, RowMajorLayout(box, 4), 4), (std::vector<ByteRun>{{100, 0, 420}}));
}

TEST(Strided, RowsOfAPartAreRuns) {
  const LocalBox src = RowMajorLayout(WholeBox({4, 10}), 2);
  const Box region{{1, 5}, {2, 3}};
  EXPECT_EQ(RunsOf(region, src, RowMajorLayout(region, 2), 2),
            (std::vector<ByteRun>{{30, 0, 6}, {50, 6, 6}}));
}

// Whole inner rows join with the dimension outside them.
TEST(Strided, JoinsDimensionsThatAreContiguousInBoth) {
  const LocalBox src = RowMajorLayout(WholeBox({4, 6, 5}), 1);
  const LocalBox dst = RowMajorLayout(Box{{0, 2, 0}, {4, 2, 5}}, 1);
  EXPECT_EQ(RunsOf(dst.box, src, dst, 1),
            (std::vector<ByteRun>{{10, 0, 10}, {40, 10, 10}, {70, 20, 10}, {100, 30, 10}}));
}

TEST(Strided, BothTransposedAlikeIsOneRun) {
  const LocalBox columns{WholeBox({3, 4}), 0, {8, 24}};
  EXPECT_EQ(RunsOf(columns.box, columns, columns, 8), (std::vector<ByteRun>{{0, 0, 96}}));
}

TEST(Strided, ScalarEmptyZeroAndNegativeStrides) {
  EXPECT_EQ(RunsOf(Box{}, LocalBox{Box{}, 8, {}}, LocalBox{Box{}, 16, {}}, 4),
            (std::vector<ByteRun>{{8, 16, 4}}));
  const LocalBox empty = RowMajorLayout(WholeBox({3, 0}), 4);
  EXPECT_TRUE(RunsOf(empty.box, empty, empty, 4).empty());
  const Box line = WholeBox({3});
  EXPECT_EQ(RunsOf(line, LocalBox{line, 0, {0}}, RowMajorLayout(line, 4), 4),
            (std::vector<ByteRun>{{0, 0, 4}, {0, 4, 4}, {0, 8, 4}}));
  EXPECT_EQ(RunsOf(line, LocalBox{line, 8, {-4}}, RowMajorLayout(line, 4), 4),
            (std::vector<ByteRun>{{8, 0, 4}, {4, 4, 4}, {0, 8, 4}}));
}

TEST(Strided, CopiesTransposesOfEveryItemSize) {
  for (const int64_t item : {1, 2, 4, 8, 16, 3}) {
    const Box box = WholeBox({2, 3});
    const LocalBox columns{box, 0, {item, 2 * item}};
    std::vector<std::byte> src(static_cast<size_t>(6 * item));
    for (size_t i = 0; i < src.size(); ++i) src[i] = static_cast<std::byte>(i);
    std::vector<std::byte> dst(src.size());
    CopyRuns(MakeRunNest(box, columns, RowMajorLayout(box, item), item), src.data(), dst.data());
    const std::array<int64_t, 6> order = {0, 2, 4, 1, 3, 5};
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_EQ(std::memcmp(&dst[i * static_cast<size_t>(item)], &src[static_cast<size_t>(order[i] * item)],
                            static_cast<size_t>(item)),
                0)
          << "item size " << item << ", element " << i;
    }
  }
}

TEST(StridedDeathTest, AbortsOnARegionOutsideItsBoxes) {
  const LocalBox small = RowMajorLayout(WholeBox({2}), 1);
  const LocalBox large = RowMajorLayout(WholeBox({3}), 1);
  EXPECT_DEATH(MakeRunNest(large.box, small, large, 1), "outside its boxes");
}

}  // namespace
}  // namespace keepstep::reshard
