#include "reshard/box_index.h"

#include <cstddef>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "reshard/flat.h"

namespace keepstep::reshard {
namespace {

std::vector<Box> Grid(int64_t rows, int64_t columns) {
  std::vector<Box> boxes;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) boxes.push_back(Box{{r * 2, c * 3}, {2, 3}});
  }
  return boxes;
}

TEST(BoxIndex, FindsWhatALinearLookFinds) {
  std::vector<Box> boxes = Grid(20, 30);
  boxes.push_back(Box{{4, 4}, {0, 5}});
  const BoxIndex index(boxes);
  for (const Box& query :
       {Box{{3, 5}, {9, 13}}, Box{{0, 0}, {1, 1}}, Box{{0, 0}, {40, 90}}, Box{{40, 90}, {5, 5}}}) {
    std::set<size_t> expected;
    for (size_t i = 0; i < boxes.size(); ++i) {
      if (Intersect(boxes[i], query).has_value()) expected.insert(i);
    }
    std::set<size_t> found;
    index.Query(query, [&](size_t i, const Box& both) {
      EXPECT_EQ(both, *Intersect(boxes[i], query));
      EXPECT_TRUE(found.insert(i).second);
      return true;
    });
    EXPECT_EQ(found, expected) << ToString(query);
  }
}

TEST(BoxIndex, StopsWhenTold) {
  const std::vector<Box> boxes = Grid(10, 10);
  int calls = 0;
  BoxIndex(boxes).Query(WholeBox({100, 100}), [&](size_t, const Box&) { return ++calls < 3; });
  EXPECT_EQ(calls, 3);
}

TEST(BoxIndex, HoldsNothingAndScalars) {
  BoxIndex({}).Query(Box{}, [](size_t, const Box&) {
    ADD_FAILURE();
    return true;
  });
  const std::vector<Box> scalars(20);
  int calls = 0;
  BoxIndex(scalars).Query(Box{}, [&](size_t, const Box&) { return ++calls > 0; });
  EXPECT_EQ(calls, 20);
}

TEST(FindOverlap, FindsTheOnlyOne) {
  std::vector<Box> boxes = Grid(100, 100);
  EXPECT_FALSE(FindOverlap(boxes).has_value());
  boxes.push_back(Box{{3, 4}, {1, 1}});  // in row 1, column 1
  EXPECT_EQ(FindOverlap(boxes), std::make_pair(size_t{101}, size_t{10000}));
}

TEST(FindOverlap, NeighboursAndEmptyBoxesDoNotOverlap) {
  EXPECT_FALSE(FindOverlap(std::vector<Box>{{{0}, {4}}, {{4}, {4}}, {{2}, {0}}, {{2}, {0}}}).has_value());
  EXPECT_TRUE(FindOverlap(std::vector<Box>{Box{}, Box{}}).has_value());
}

// 10,000 ranks with flat shards: what a comparison of all pairs would not finish in the time of a test.
TEST(FindOverlap, IsQuickForFlatShards) {
  const Box whole = WholeBox({3001, 1013});
  std::vector<Box> boxes;
  for (int64_t r = 0; r < 10000; ++r) {
    const int64_t all = NumElements(whole);
    for (const Box& box : DecomposeFlatRange(whole, all * r / 10000, all * (r + 1) / 10000))
      boxes.push_back(box);
  }
  EXPECT_FALSE(FindOverlap(boxes).has_value());
}

}  // namespace
}  // namespace keepstep::reshard
