#include "client/samples.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace keepstep::client {
namespace {

using Memory = std::vector<std::byte>;

std::vector<SampledRun> RunsOf(const std::vector<Memory>& tensors) {
  std::vector<SampledRun> runs;
  for (const Memory& tensor : tensors) {
    runs.push_back({.fqn = "t" + std::to_string(runs.size()),
                    .data = tensor.data(),
                    .size_bytes = static_cast<int64_t>(tensor.size())});
  }
  return runs;
}

int64_t PiecesOf(const SamplePlan& plan) {
  int64_t pieces = 0;
  for (const auto& [group, runs] : plan) {
    for (const SampledRun& run : runs) pieces += run.pieces;
  }
  return pieces;
}

TEST(LimitPlan, FewTensorsAreSampledAllOverEach) {
  SamplePlan plan{{0, RunsOf(std::vector<Memory>(64, Memory(4096)))}};
  LimitPlan(&plan);
  for (const SampledRun& run : plan[0]) EXPECT_EQ(run.pieces, kPiecesOfARun);
}

TEST(LimitPlan, ManyTensorsShareThePiecesAndLargeOnesHaveMore) {
  std::vector<Memory> tensors(1000, Memory(1000));
  tensors[7].resize(100'000);
  SamplePlan plan{{0, RunsOf(tensors)}, {3, RunsOf(std::vector<Memory>(1000, Memory(4)))}};
  LimitPlan(&plan);
  EXPECT_LE(PiecesOf(plan), kMaxPieces);
  EXPECT_EQ(plan[0].size() + plan[3].size(), kMaxSampledTensors);
  for (const SampledRun& run : plan[0]) EXPECT_GE(run.pieces, run.size_bytes > 1000 ? kPiecesOfARun : 1);
  for (const SampledRun& run : plan[3]) EXPECT_EQ(run.pieces, 1);
}

TEST(LimitPlan, GroupsOfEmptyTensorsAndOfNoneAreKept) {
  SamplePlan plan{{0, RunsOf({Memory()})}, {1, {}}};
  LimitPlan(&plan);
  EXPECT_EQ(plan.size(), 2u);
  EXPECT_EQ(TakeSamples(plan[0]).size(), static_cast<size_t>(kSampleBytes));
}

// Of every length, with every number of pieces: read within the run (the sanitizer sees it), found when all of it changes.
TEST(Samples, AWholeUpdateIsFound) {
  for (int64_t pieces = 1; pieces <= kPiecesOfARun; pieces *= 2) {
    for (size_t size = 1; size < 300; ++size) {
      std::vector<Memory> tensors{Memory(64), Memory(size)};
      std::vector<SampledRun> runs = RunsOf(tensors);
      for (SampledRun& run : runs) run.pieces = pieces;
      const Memory before = TakeSamples(runs);
      EXPECT_EQ(FindChanged(runs, before), "");
      tensors[1].assign(size, std::byte{1});
      EXPECT_EQ(FindChanged(runs, before), "t1") << size << " bytes, " << pieces << " pieces";
    }
  }
}

TEST(Samples, AnUpdateOfAnyEighthIsFoundByEightPieces) {
  for (size_t size : {4096, 4100, 65'535}) {
    for (size_t begin = 0; begin + size / 8 < size; begin += size / 64) {
      std::vector<Memory> tensors{Memory(size)};
      const std::vector<SampledRun> runs = RunsOf(tensors);
      const Memory before = TakeSamples(runs);
      for (size_t i = begin; i < begin + size / 8 + 8; ++i) tensors[0][std::min(i, size - 1)] = std::byte{1};
      EXPECT_EQ(FindChanged(runs, before), "t0") << size << " bytes from " << begin;
    }
  }
}

}  // namespace
}  // namespace keepstep::client
