// What is kept, and why: the sentences, and 20,000 random jobs against an oracle that counts by hand.

#include "daemon/logic/retention.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

StoredCommit Commit(int64_t epoch, int64_t step, int counter = 1) {
  return {.epoch = epoch,
          .step = step,
          .attempt = absl::StrCat("e", epoch, "-s", step, "-", counter),
          .bytes = 10};
}

std::string Text(const RetentionDecision& decision) {
  return absl::StrCat(decision.step, decision.keep ? " kept: " : " deleted: ", decision.reason);
}

std::vector<std::string> Texts(const RetentionInput& input) {
  std::vector<std::string> texts;
  for (const RetentionDecision& decision : PlanRetention(input)) texts.push_back(Text(decision));
  return texts;
}

TEST(Retention, SaysWhyEachIsKeptOrDeleted) {
  RetentionInput input{.policy = {.keep_last = 2, .keep_every = 1000}};
  for (int64_t step : {500, 1000, 1100, 1200, 1300, 1400, 1500}) input.commits.push_back(Commit(1, step));
  input.commits[2].pins = {"alice", "bob"};
  input.commits[3].uncertain = true;
  input.in_use[input.commits[4].attempt] = "being loaded";
  input.last_good = input.commits[6].attempt;
  EXPECT_EQ(Texts(input), (std::vector<std::string>{
                              "500 deleted: older than the 2 newest, and no multiple of 1000",
                              "1000 kept: step 1000 is a multiple of 1000", "1100 kept: pinned by alice, bob",
                              "1200 kept: its durability is uncertain; a restart of the daemon settles it",
                              "1300 kept: being loaded", "1400 kept: one of the 2 newest",
                              "1500 kept: one of the 2 newest"}));
}

// A rescue is what a crash left: it must not push a checkpoint out that the run chose to make, nor stay for good by its
// number. While nothing later is there, it is what "latest" names.
TEST(Retention, ARescueCountsForNothing) {
  RetentionInput input{.policy = {.keep_last = 2, .keep_every = 1000}};
  for (int64_t step : {1800, 1900, 2000}) input.commits.push_back(Commit(1, step));
  input.commits[2].rescue = true;
  input.last_good = input.commits[2].attempt;
  EXPECT_EQ(Texts(input),
            (std::vector<std::string>{"1800 kept: one of the 2 newest", "1900 kept: one of the 2 newest",
                                      "2000 kept: the last good checkpoint"}));
  input.commits.push_back(Commit(2, 2100));
  input.last_good = input.commits[3].attempt;
  EXPECT_EQ(Texts(input),
            (std::vector<std::string>{"1800 deleted: older than the 2 newest, and no multiple of 1000",
                                      "1900 kept: one of the 2 newest",
                                      "2000 deleted: a rescue, and a later checkpoint is there",
                                      "2100 kept: one of the 2 newest"}));
}

// After a rollback the step with the highest number is not the newest, and what the new run went on from is
// what "latest" names until it commits.
TEST(Retention, CountsInTheOrderOfEpochs) {
  RetentionInput input{.policy = {.keep_last = 1}};
  input.commits = {Commit(1, 100), Commit(1, 200), Commit(1, 300), Commit(2, 200)};
  EXPECT_EQ(Texts(input),
            (std::vector<std::string>{"100 deleted: older than the newest",
                                      "200 deleted: step 200 was saved again by a later run",
                                      "300 deleted: older than the newest", "200 kept: the newest"}));
  input.commits.pop_back();
  input.last_good = input.commits[0].attempt;
  EXPECT_EQ(Texts(input),
            (std::vector<std::string>{"100 kept: the last good checkpoint",
                                      "200 deleted: older than the newest", "300 kept: the newest"}));
}

TEST(Retention, KeepsEverythingWithoutAPolicyButFinishesDeletions) {
  RetentionInput input;
  input.commits = {Commit(1, 100), Commit(1, 200)};
  input.commits[0].deleting = true;
  EXPECT_EQ(Texts(input), (std::vector<std::string>{"100 deleted: its deletion had begun",
                                                    "200 kept: the job has no retention policy"}));
}

TEST(Retention, RefusesPoliciesThatMeanNothing) {
  EXPECT_FALSE(PolicyFault({}).has_value());
  EXPECT_FALSE(PolicyFault({.keep_last = 3, .keep_every = 1000}).has_value());
  EXPECT_TRUE(PolicyFault({.keep_last = -1}).has_value());
  EXPECT_TRUE(PolicyFault({.keep_last = kMaxKeepLast + 1}).has_value());
  EXPECT_TRUE(PolicyFault({.keep_last = 1, .keep_every = -5}).has_value());
  EXPECT_TRUE(PolicyFault({.keep_last = 0, .keep_every = 10}).has_value())
      << "would delete all but multiples";
}

// ---- against an oracle
// ------------------------------------------------------------------------------------------------------

// Whether `commit` may go, by counting what is newer: no state, no order of rules.
bool MayGo(const RetentionInput& input, size_t at) {
  const StoredCommit& commit = input.commits[at];
  if (commit.deleting) return true;
  if (input.policy.keep_last == 0 || !commit.pins.empty() || commit.attempt == input.last_good ||
      input.in_use.count(commit.attempt) != 0 || commit.uncertain) {
    return false;
  }
  int64_t newer = 0;  // other checkpoints
  bool same_run = false, later_run = false;
  for (size_t i = at + 1; i < input.commits.size(); ++i) {
    const StoredCommit& other = input.commits[i];
    if (other.deleting || other.uncertain) continue;
    if (other.step == commit.step) (other.epoch == commit.epoch ? same_run : later_run) = true;
    bool counted = false;  // by an attempt further on
    for (size_t k = i + 1; k < input.commits.size(); ++k) {
      const StoredCommit& later = input.commits[k];
      counted |=
          !later.deleting && !later.uncertain && later.epoch == other.epoch && later.step == other.step;
    }
    newer += !counted;
  }
  if (same_run) return true;
  if (newer < input.policy.keep_last) return false;
  const bool multiple = input.policy.keep_every > 0 && commit.step % input.policy.keep_every == 0;
  return !multiple || later_run;
}

TEST(Retention, AgreesWithTheOracle) {
  std::mt19937_64 random(20251125);
  const auto below = [&random](int n) { return static_cast<int>(random() % n); };
  int64_t kept = 0, deleted = 0;
  for (int run = 0; run < 20'000; ++run) {
    RetentionInput input{.policy = {.keep_last = below(5), .keep_every = 0}};
    if (input.policy.keep_last > 0) input.policy.keep_every = below(4) * 2;
    for (int64_t epoch = 1; epoch <= 1 + below(3); ++epoch) {
      for (int64_t step = below(4); step < 12; step += 1 + below(4)) {
        for (int counter = 1; counter <= 1 + (below(8) == 0); ++counter) {
          StoredCommit commit = Commit(epoch, step, counter);
          if (below(6) == 0) commit.pins = {"someone"};
          commit.uncertain = below(10) == 0;
          commit.deleting = below(10) == 0;
          if (below(8) == 0) input.in_use[commit.attempt] = "being loaded";
          if (below(6) == 0) input.last_good = commit.attempt;
          input.commits.push_back(std::move(commit));
        }
      }
    }
    const std::vector<RetentionDecision> plan = PlanRetention(input);
    ASSERT_EQ(plan.size(), input.commits.size());
    int64_t good_left = 0, good = 0;
    for (size_t i = 0; i < plan.size(); ++i) {
      ASSERT_EQ(plan[i].attempt, input.commits[i].attempt);
      ASSERT_EQ(plan[i].keep, !MayGo(input, i)) << "run " << run << ": " << Text(plan[i]);
      ASSERT_FALSE(plan[i].reason.empty());
      (plan[i].keep ? kept : deleted) += 1;
      const bool certain = !input.commits[i].deleting && !input.commits[i].uncertain;
      good += certain;
      good_left += certain && plan[i].keep;
    }
    ASSERT_EQ(good_left > 0, good > 0) << "a job was left without a good checkpoint";
  }
  printf("20000 jobs: %ld kept, %ld deleted, 0 against the oracle\n", static_cast<long>(kept),
         static_cast<long>(deleted));
}

}  // namespace
}  // namespace keepstep::daemon
