#include "daemon/why.h"

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr int64_t kNow = 1'764'000'000'000;  // 16:00 UTC

// A healthy job of 64 ranks whose step 800 is committed.
JobFacts Healthy() {
  JobFacts facts{.job = "vit-sft", .directory = "/ckpt/vit-sft"};
  facts.view.logic.recovering = false;
  facts.view.logic.world_size = 64;
  for (int32_t rank = 0; rank < 64; ++rank) facts.view.logic.sessions.push_back({.session = 1, .rank = rank});
  facts.host = "gpu-node-07";
  facts.last_step = 800;
  facts.free_bytes = 400 * kGiB;
  facts.total_bytes = 1000 * kGiB;
  facts.now_unix_ms = kNow;
  return facts;
}

SaveInFlight& AddSave(JobFacts& facts, SaveStage stage, double idle_seconds) {
  SaveInFlight save;
  save.logic = {.number = 9, .attempt = "e1-a9-x", .step = 900, .stage = stage, .waiting_for_ranks = {13}};
  save.seconds = save.stage_seconds = save.idle_seconds = idle_seconds;
  save.progress = {64 * kGiB, 60 * kGiB, 50 * kGiB};
  save.waited[13] = {64 * kGiB / 10, 3 * kGiB, 21 * kGiB / 10};
  facts.view.ranks[13] = {.state = RankView::State::kOpen, .pid = 4711};
  facts.process_states[13] = 'S';
  facts.view.saves.push_back(save);
  return facts.view.saves.back();
}

void AddOutcome(JobFacts& facts, int64_t step, SaveState state, Failure failure = {}) {
  facts.view.outcomes.push_back({.step = step,
                                 .state = state,
                                 .failure = std::move(failure),
                                 .unix_ms = kNow - 125'000,
                                 .bytes = kGiB});
}

Failure DiskFull() {
  return {.code = absl::StatusCode::kResourceExhausted,
          .reason = "DISK_FULL",
          .message = "write model-00013.safetensors: No space left on device",
          .stage = "write",
          .rank = 13};
}

std::string All(const Problem& problem) {
  return absl::StrCat(problem.sentence, "\n", absl::StrJoin(problem.details, "\n"), "\n",
                      absl::StrJoin(problem.next, "\n"));
}

// People look for the step that was lost.
TEST(Why, ARescueThatDidNotComeIsExplainedUntilTheNextCommit) {
  JobFacts facts = Healthy();
  facts.last_commit_unix_ms = kNow - 600'000;
  facts.view.rescue = RescueView{.unix_ms = kNow - 125'000, .why = "rank 2 was at step 841, the others at 842"};
  const std::vector<Problem> problems = Explain(facts);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0].kind, "no rescue");
  EXPECT_EQ(All(problems[0]),
            "The trainers died 2m05s ago, and what they held was not rescued; last good step is 800.\n"
            "rank 2 was at step 841, the others at 842.\nkeepstep logs vit-sft");
  facts.last_commit_unix_ms = kNow;
  EXPECT_TRUE(Explain(facts).empty());
}

TEST(Why, ARescuedStepSaysWhoSavedIt) {
  JobFacts facts = Healthy();
  AddOutcome(facts, 842, SaveState::kCommitted);
  facts.view.rescue = RescueView{.unix_ms = kNow - 125'000, .step = 842};
  EXPECT_TRUE(Explain(facts).empty());
  const auto told = ExplainStep(facts, 842);
  ASSERT_TRUE(told.has_value());
  EXPECT_TRUE(absl::StrContains(All(*told), "out of the memory of its trainers")) << All(*told);
}

TEST(Why, NothingIsWrong) {
  JobFacts facts = Healthy();
  AddSave(facts, SaveStage::kPersist, 2);
  AddOutcome(facts, 800, SaveState::kCommitted);
  EXPECT_TRUE(Explain(facts).empty());
  EXPECT_EQ(HealthOf(Explain(facts)), "ok");
}

// The case of three in the morning: one cause, with rank, host, bytes, and what happens by itself.
TEST(Why, StuckInPersistNamesRankHostAndProgress) {
  JobFacts facts = Healthy();
  AddSave(facts, SaveStage::kPersist, 250);
  const auto problems = Explain(facts);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0].kind, "stuck");
  EXPECT_EQ(problems[0].step, 900);
  EXPECT_EQ(problems[0].severity, Problem::Severity::kError);
  EXPECT_EQ(problems[0].sentence, "STUCK in persist for 4m10s. Training goes on; last good step is 800.");
  EXPECT_EQ(HealthOf(problems), problems[0].sentence);
  EXPECT_EQ(
      problems[0].details[0],
      "Waiting for 1 of 64 ranks: rank 13 (gpu-node-07, pid 4711), 2.1 GiB of 6.4 GiB written. The storage "
      "takes nothing more, or very slowly.");
  // 30 minutes without progress from when it last moved: 16:00:00 - 4m10s + 30m.
  EXPECT_EQ(problems[0].details[1], "If nothing moves until 16:25 UTC, step 900 alone fails.");
  EXPECT_EQ(problems[0].next, (std::vector<std::string>{"keepstep doctor", "keepstep logs vit-sft",
                                                        "keepstep cancel vit-sft/900"}));
}

TEST(Why, StuckOnAFullDiskSaysSo) {
  JobFacts facts = Healthy();
  facts.free_bytes = kGiB;
  AddSave(facts, SaveStage::kPersist, 30);
  const auto problems = Explain(facts);
  ASSERT_EQ(problems.size(), 1u) << "one cause, said once";
  EXPECT_EQ(problems[0].details[1], "Only 1.0 GiB (0 %) are free in /ckpt/vit-sft.");
  EXPECT_EQ(problems[0].next.front(), "keepstep gc vit-sft --dry-run");
}

TEST(Why, StuckInCopyByAStoppedProcessSaysThatTrainingWaits) {
  JobFacts facts = Healthy();
  AddSave(facts, SaveStage::kCopy, 30);
  facts.process_states[13] = 'T';
  const std::string text = All(Explain(facts).at(0));
  EXPECT_TRUE(absl::StrContains(text, "STUCK in copy for 30s. Training waits at its next update")) << text;
  EXPECT_TRUE(absl::StrContains(text, "3.0 GiB of 6.4 GiB copied, whose process is stopped")) << text;
  EXPECT_TRUE(absl::StrContains(text, "kill -CONT 4711")) << text;
}

TEST(Why, StuckInSealAndInArriveSayWhatIsMissing) {
  JobFacts facts = Healthy();
  AddSave(facts, SaveStage::kSeal, 30);
  EXPECT_TRUE(absl::StrContains(All(Explain(facts).at(0)), "yet to confirm that nothing changed"));
  facts.view.saves.clear();
  AddSave(facts, SaveStage::kArrive, 30);
  EXPECT_TRUE(absl::StrContains(All(Explain(facts).at(0)), "have not called save for this step"));
}

TEST(Why, ACommitThatDoesNotComeBlamesTheStorageAndCannotBeCancelled) {
  JobFacts facts = Healthy();
  AddSave(facts, SaveStage::kCommit, 30).logic.waiting_for_ranks.clear();
  const std::string text = All(Explain(facts).at(0));
  EXPECT_TRUE(absl::StrContains(text, "/ckpt/vit-sft is slow, or does not answer")) << text;
  EXPECT_FALSE(absl::StrContains(text, "keepstep cancel")) << text;
}

TEST(Why, ManyRanksAreCutShort) {
  JobFacts facts = Healthy();
  SaveInFlight& save = AddSave(facts, SaveStage::kSeal, 30);
  save.logic.waiting_for_ranks.clear();
  for (int32_t rank = 0; rank < 20; ++rank) save.logic.waiting_for_ranks.push_back(rank);
  const std::string text = All(Explain(facts).at(0));
  EXPECT_TRUE(absl::StrContains(text, "Waiting for 20 of 64 ranks: rank 0; ")) << text;
  EXPECT_TRUE(absl::StrContains(text, "; and 12 more")) << text;
}

// A queued save is not stuck: the ones before it are, or nothing is.
TEST(Why, AQueuedSaveIsNoProblem) {
  JobFacts facts = Healthy();
  AddSave(facts, SaveStage::kQueued, 500);
  EXPECT_TRUE(Explain(facts).empty());
}

TEST(Why, MissingAndDeadRanksAreTold) {
  JobFacts facts = Healthy();
  facts.view.logic.missing_ranks = {2, 5};
  facts.view.ranks[2] = {.state = RankView::State::kGone, .pid = 77, .seconds = 61};
  const auto problems = Explain(facts);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0].kind, "rank missing");
  const std::string text = All(problems[0]);
  EXPECT_TRUE(absl::StrContains(text, "2 of 64 ranks are missing: saves and loads wait for them")) << text;
  EXPECT_TRUE(
      absl::StrContains(text, "rank 2 (gpu-node-07, pid 77), which ended 1m01s ago; rank 5, which never"))
      << text;
  // The world is over: nobody waits.
  facts.view.logic.sessions.clear();
  EXPECT_TRUE(Explain(facts).empty());
}

TEST(Why, ALostSessionHasALimit) {
  JobFacts facts = Healthy();
  facts.view.logic.sessions[7].lost = true;
  facts.view.ranks[7] = {.state = RankView::State::kLost, .pid = 8};
  EXPECT_TRUE(
      absl::StrContains(HealthOf(Explain(facts)), "rank 7 (gpu-node-07, pid 8) has lost its connection"));
}

TEST(Why, TheLastFailureStaysUntilASaveCommits) {
  JobFacts facts = Healthy();
  AddOutcome(facts, 700, SaveState::kFailed, DiskFull());
  AddOutcome(facts, 800, SaveState::kCommitted);
  EXPECT_TRUE(Explain(facts).empty()) << "a later step was committed";
  AddOutcome(facts, 900, SaveState::kFailed, DiskFull());
  AddOutcome(facts, 950, SaveState::kSkipped);
  AddOutcome(facts, 1000, SaveState::kFailed, DiskFull());
  const auto problems = Explain(facts);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(
      problems[0].sentence,
      "Step 1000 FAILED in write 2m05s ago, as did 1 before it. Training goes on; last good step is 800.");
  EXPECT_EQ(problems[0].details[0],
            "rank 13: write model-00013.safetensors: No space left on device [DISK_FULL]");
  EXPECT_EQ(problems[0].next.front(), "keepstep gc vit-sft --dry-run");
}

TEST(Why, StatesOfTheJob) {
  JobFacts facts = Healthy();
  facts.view.logic.draining = true;
  EXPECT_TRUE(absl::StrContains(HealthOf(Explain(facts)), "Draining"));
  facts.view.logic.recovering = true;
  EXPECT_TRUE(absl::StrContains(HealthOf(Explain(facts)), "Recovering"));
  facts.view.logic.recovering = false;
  facts.view.logic.claiming = true;
  EXPECT_TRUE(absl::StrContains(HealthOf(Explain(facts)), "A new run is taking the job over"));
  facts.storage_error = "cannot list /ckpt/vit-sft: Input/output error";
  EXPECT_EQ(Explain(facts).at(0).kind, "storage") << "the worst first";
  EXPECT_EQ(Explain(facts).at(0).details.at(0), facts.storage_error);

  JobFacts detached{.job = "j", .directory = "/home/u/j", .detached = true};
  EXPECT_EQ(Explain(detached).at(0).next.at(0), "keepstep ls /home/u/j");
}

TEST(Why, ShortSpaceIsAWarningWhileNothingHasFailed) {
  JobFacts facts = Healthy();
  facts.free_bytes = 3 * kGiB;
  const auto problems = Explain(facts);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0].severity, Problem::Severity::kWarning);
  EXPECT_EQ(problems[0].sentence,
            "Space is short: 3.0 GiB (0 %) are free in /ckpt/vit-sft; the next save may not fit.");
}

TEST(WhyStep, TellsWhatBecameOfIt) {
  JobFacts facts = Healthy();
  AddOutcome(facts, 700, SaveState::kFailed, DiskFull());
  AddOutcome(facts, 750, SaveState::kCancelled);
  AddOutcome(facts, 800, SaveState::kCommitted);
  AddSave(facts, SaveStage::kCopy, 1);
  EXPECT_TRUE(absl::StrContains(ExplainStep(facts, 700)->sentence, "Step 700 FAILED in write"));
  EXPECT_TRUE(absl::StrContains(ExplainStep(facts, 750)->sentence, "Step 750 was cancelled"));
  EXPECT_TRUE(
      absl::StrContains(ExplainStep(facts, 800)->sentence, "Step 800 was committed 2m05s ago, 1.0 GiB"));
  EXPECT_TRUE(absl::StrContains(ExplainStep(facts, 900)->sentence, "Step 900 is in copy"));
  EXPECT_FALSE(ExplainStep(facts, 901).has_value());
}

}  // namespace
}  // namespace keepstep::daemon
