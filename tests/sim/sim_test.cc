// Thousands of whole runs, each from one seed, against a disk and a fate that do their worst.
//
// KEEPSTEP_SIM_SEEDS=n   how many seeds (default 20,000), from KEEPSTEP_SIM_FIRST (default 1)
// KEEPSTEP_SIM_SEED=n    replays one seed and prints its trace

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/sim/sim_world.h"

namespace keepstep::sim {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

struct Sums {
  int64_t commits = 0, rescues = 0, rescues_begun = 0, deletions = 0, verdicts = 0;
  int64_t daemon_deaths = 0, power_losses = 0, trainer_deaths = 0;
  int64_t lost = 0, mislabelled = 0, broken = 0;
  uint64_t events = 0;
  std::vector<std::string> findings;

  void Add(uint64_t seed, const RunResult& run) {
    commits += run.commits;
    rescues += run.rescues;
    rescues_begun += run.rescues_begun;
    deletions += run.deletions;
    verdicts += run.verdicts;
    daemon_deaths += run.daemon_deaths;
    power_losses += run.power_losses;
    trainer_deaths += run.trainer_deaths;
    events += run.events;
    lost += run.findings.lost;
    mislabelled += run.findings.mislabelled;
    broken += run.findings.broken;
    for (const std::string& what : run.findings.first) {
      if (findings.size() < 20) findings.push_back("seed " + std::to_string(seed) + ": " + what);
    }
  }
};

// What a trainer was told is durable must be, and must be what it says, at every point at which anything may
// die.
TEST(Simulation, NothingIsLostOrMislabelled) {
  if (const uint64_t seed = FromEnvironment("KEEPSTEP_SIM_SEED", 0); seed != 0) {
    Sums sums;
    sums.Add(seed, RunSeed(seed, Mutation::kNone, true));
    for (const std::string& what : sums.findings) ADD_FAILURE() << what;
    return;
  }
  const uint64_t seeds = FromEnvironment("KEEPSTEP_SIM_SEEDS", 20'000);
  const uint64_t first = FromEnvironment("KEEPSTEP_SIM_FIRST", 1);
  const auto begin = std::chrono::steady_clock::now();
  Sums sums;
  std::mutex mutex;
  std::atomic<uint64_t> next{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) {
    threads.emplace_back([&] {
      for (uint64_t n = next++; n < seeds; n = next++) {
        const RunResult run = RunSeed(first + n);
        std::lock_guard lock(mutex);
        sums.Add(first + n, run);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf(
      "%llu seeds in %.1f s, %.0f a second: %lld verdicts on saves, %lld commits, %lld of %lld rescues committed, "
      "%lld deletions, %lld daemon deaths, "
      "%lld power losses, %lld trainer deaths, %llu events: %lld lost, %lld mislabelled, %lld broken\n",
      static_cast<unsigned long long>(seeds), seconds, static_cast<double>(seeds) / seconds,
      static_cast<long long>(sums.verdicts),
      static_cast<long long>(sums.commits), static_cast<long long>(sums.rescues),
      static_cast<long long>(sums.rescues_begun),
      static_cast<long long>(sums.deletions),
      static_cast<long long>(sums.daemon_deaths),
      static_cast<long long>(sums.power_losses), static_cast<long long>(sums.trainer_deaths),
      static_cast<unsigned long long>(sums.events), static_cast<long long>(sums.lost),
      static_cast<long long>(sums.mislabelled), static_cast<long long>(sums.broken));
  for (const std::string& what : sums.findings) ADD_FAILURE() << what;
  EXPECT_GT(sums.commits, static_cast<int64_t>(seeds)) << "too little happens to prove anything";
  EXPECT_GT(sums.rescues, static_cast<int64_t>(seeds) / 50) << "too little is rescued to prove anything";
  EXPECT_GT(sums.rescues_begun, sums.rescues) << "no rescue is given up";
  EXPECT_GT(sums.deletions, static_cast<int64_t>(seeds)) << "too little is deleted to prove anything";
}

// A failure that cannot be replayed cannot be understood.
TEST(Simulation, TheSameSeedIsTheSameRun) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    EXPECT_EQ(RunSeed(seed).trace_hash, RunSeed(seed).trace_hash) << "seed " << seed;
  }
  EXPECT_NE(RunSeed(1).trace_hash, RunSeed(2).trace_hash);
}

}  // namespace
}  // namespace keepstep::sim
