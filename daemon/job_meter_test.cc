#include "daemon/job_meter.h"

#include <gtest/gtest.h>

namespace keepstep::daemon {
namespace {

using std::chrono::milliseconds;

class JobMeterTest : public testing::Test {
 protected:
  template <typename What>
  void At(int ms, What what) {
    now_ = JobMeter::Time{} + std::chrono::hours(1) + milliseconds(ms);
    meter_.Saw(what, now_);
  }
  template <typename... Parts>
  void Event(int ms, Parts... parts) {
    At(ms, daemon::Event(parts...));
  }
  template <typename... Parts>
  void Action(int ms, Parts... parts) {
    At(ms, daemon::Action(parts...));
  }
  double Sum(prometheus::Histogram& histogram) {
    EXPECT_EQ(histogram.Collect().histogram.sample_count, 1u);
    return histogram.Collect().histogram.sample_sum;
  }
  double Outcomes(const std::string& outcome, const std::string& reason) {
    for (const auto& family : metrics_.registry().Collect()) {
      if (family.name != "keepstep_saves_total") continue;
      for (const auto& metric : family.metric) {
        std::map<std::string, std::string> labels;
        for (const auto& label : metric.label) labels[label.name] = label.value;
        if (labels["outcome"] == outcome && labels["reason"] == reason) return metric.counter.value;
      }
    }
    return -1;
  }

  Metrics metrics_;
  JobMeter meter_{&metrics_};
  JobMeter::Time now_;
};

TEST_F(JobMeterTest, TimesEachStageOfASaveOfTwoRanks) {
  Event(0, SaveRequested{.session = 1, .number = 3, .step = 7});
  Event(4, SaveRequested{.session = 2, .number = 3, .step = 7});
  Action(5, PutJournal{.op = 9, .entry = {.attempt = "a", .step = 7}});
  EXPECT_EQ(metrics_.saves_in_flight->Value(), 1);
  Action(5, MakePlan{.attempt = "a"});
  Event(15, PlanMade{.attempt = "a"});
  Event(25, CatalogDone{.op = 9});
  Action(30, StartRank{.attempt = "a", .rank = 0, .session = 1, .number = 3});
  Action(35, StartRank{.attempt = "a", .rank = 1, .session = 2, .number = 3});
  Event(90, RankCopied{.attempt = "a", .rank = 1});
  Event(130, RankCopied{.attempt = "a", .rank = 0});
  Event(180, VerdictSeen{.session = 2, .number = 3, .sealed = true});
  Event(190, VerdictSeen{.session = 1, .number = 3, .sealed = true});
  Event(400, RankFlushed{.attempt = "a", .rank = 0});
  Event(430, RankFlushed{.attempt = "a", .rank = 1});
  Action(430, WritePart{.attempt = "a"});
  Event(500, PartWritten{.attempt = "a"});
  Action(600, RecordCommit{.op = 10, .attempt = "a", .step = 7});
  meter_.Committed("a", 1'000'000, now_);
  meter_.Committed("a", 1'000'000, now_);  // told again: counted once
  Action(650, EraseJournal{.op = 11, .attempt = "a"});

  const std::pair<SavePhase, double> expected[] = {
      {SavePhase::kJournal, 0.020}, {SavePhase::kPlan, 0.010},    {SavePhase::kCopy, 0.100},
      {SavePhase::kSeal, 0.060},    {SavePhase::kPersist, 0.300}, {SavePhase::kPart, 0.070},
      {SavePhase::kCommit, 0.100},  {SavePhase::kCatalog, 0.050}};
  for (const auto& [phase, seconds] : expected)
    EXPECT_NEAR(Sum(metrics_.save_phase(phase)), seconds, 1e-9) << kSavePhases[static_cast<size_t>(phase)];
  EXPECT_NEAR(Sum(*metrics_.save_snapshot), 0.130, 1e-9);
  EXPECT_NEAR(Sum(*metrics_.save_persist), 0.430, 1e-9);
  EXPECT_NEAR(Sum(*metrics_.save_commit), 0.600, 1e-9);
  EXPECT_EQ(metrics_.save_gate->Collect().histogram.sample_count, 2u);
  EXPECT_NEAR(metrics_.save_gate->Collect().histogram.sample_sum, 0.130 + 0.086, 1e-9);
  EXPECT_EQ(metrics_.saved_bytes->Value(), 1'000'000);
  EXPECT_NEAR(Sum(*metrics_.save_bandwidth), 1'000'000 / 0.6, 1);
  EXPECT_EQ(Outcomes("committed", ""), 1);
  EXPECT_EQ(metrics_.saves_in_flight->Value(), 0);
}

TEST_F(JobMeterTest, AFailedSaveHasAReasonAndNoStages) {
  Action(0, PutJournal{.op = 1, .entry = {.attempt = "a"}});
  Action(1, StartRank{.attempt = "a", .rank = 0, .session = 1, .number = 1});
  Event(2, RankCopied{.attempt = "a", .rank = 0});
  meter_.Over({.number = 1, .attempt = "a", .state = SaveState::kFailed, .failure = {.reason = "DISK_FULL"}});
  EXPECT_EQ(Outcomes("failed", "DISK_FULL"), 1);
  EXPECT_EQ(metrics_.save_phase(SavePhase::kCopy).Collect().histogram.sample_count, 0u);
  EXPECT_EQ(metrics_.saves_in_flight->Value(), 1)
      << "until its space is reclaimed and its journal entry erased";
  Action(3, EraseJournal{.op = 2, .attempt = "a"});
  EXPECT_EQ(metrics_.saves_in_flight->Value(), 0);
}

TEST_F(JobMeterTest, ASaveThatAnEarlierDaemonLeftIsCountedWithoutTimes) {
  Action(0, RecordCommit{.op = 1, .attempt = "old"});
  meter_.Committed("old", 0, now_);
  EXPECT_EQ(Outcomes("committed", "recovered"), 1);
  EXPECT_EQ(metrics_.save_commit->Collect().histogram.sample_count, 0u);
}

TEST_F(JobMeterTest, AskingForAFailedOperationAgainIsARetry) {
  const storage::StoreOp publish{storage::StoreOp::Kind::kPublish, "7/a/DECISION", "x"};
  Action(0, DoStore{1, publish});
  Event(1, StoreDone{1, {.status = absl::UnavailableError("later")}});
  Action(2, DoStore{2, publish});
  EXPECT_EQ(metrics_.store_retries->Value(), 1);
  Event(3, StoreDone{2, {.status = absl::AlreadyExistsError("there")}});
  Action(4, DoStore{3, publish});
  EXPECT_EQ(metrics_.store_retries->Value(), 1) << "an answer is not a failure";
}

}  // namespace
}  // namespace keepstep::daemon
