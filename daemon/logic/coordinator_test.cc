// Several saves, several ranks: one verdict for all, two in flight, nobody gated without need.

#include "daemon/logic/world_test.h"
#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

class CoordinatorTest : public WorldTest {
 protected:
  int ReleasesOf(SessionId session, uint64_t number) {
    int count = 0;
    for (const Release& release : h.All<Release>()) {
      count += release.session == session && release.number == number && release.all_groups;
    }
    return count;
  }
};

// A client repeats a call whose answer it lost; a second copy of the same save would be a second checkpoint.
TEST_F(CoordinatorTest, ARepeatedRequestGetsTheSameAnswerAndNothingTwice) {
  Begin(1);
  h.Save(world[0], 1, 100);
  h.Save(world[0], 1, 100);
  const auto answers = h.All<AnswerSave>();
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ(answers[0].status.attempt, answers[1].status.attempt);
  EXPECT_EQ(h.Count<StartRank>(), 1);
  EXPECT_EQ(h.Count<PutJournal>(), 1);
}

TEST_F(CoordinatorTest, TheThirdSaveWaitsUnderWait) {
  Begin(1);
  SaveOnAll(1, 100);
  SaveOnAll(2, 101);
  SaveOnAll(3, 102);
  EXPECT_EQ(h.Told(world[0], 3).state, SaveState::kAccepted);
  EXPECT_EQ(h.Count<PutJournal>(), 2);
  EXPECT_EQ(ReleasesOf(world[0], 3), 0);
  h.Finish(1, world);
  EXPECT_EQ(h.Count<PutJournal>(), 3);
  EXPECT_EQ(h.Snapshot().saves.size(), 2u);
}

TEST_F(CoordinatorTest, TheThirdSaveIsSkippedUnderSkipOnEveryRank) {
  Begin(2);
  SaveOnAll(1, 100, BusyPolicy::kSkip);
  SaveOnAll(2, 101, BusyPolicy::kSkip);
  h.Save(world[0], 3, 102, BusyPolicy::kSkip);
  EXPECT_EQ(h.Told(world[0], 3).state, SaveState::kSkipped);
  h.Finish(1, world);  // there is room again, but save 3 has its verdict
  h.Save(world[1], 3, 102, BusyPolicy::kSkip);
  EXPECT_EQ(h.Told(world[1], 3).state, SaveState::kSkipped);
}

// Fewer at once: what runs is finished and nobody joins it. More: what waits begins at the next event.
TEST_F(CoordinatorTest, ChangedNumbersHoldForWhatHasNotBegun) {
  Begin(1);
  SaveOnAll(1, 100);
  SaveOnAll(2, 101);
  SaveOnAll(3, 102);
  h.SetLimits({.max_saves_in_flight = 1, .max_saves_queued = 1});
  SaveOnAll(4, 103);
  EXPECT_EQ(h.Told(world[0], 4).state, SaveState::kSkipped) << "one waits already";
  h.Finish(1, world);
  EXPECT_EQ(h.Count<PutJournal>(), 2) << "save 2 still runs";
  h.SetLimits({.max_saves_in_flight = 2});
  h.Advance(kTickMs);
  EXPECT_EQ(h.Count<PutJournal>(), 3);
}

// A skipped save's release must not open the gate of an earlier one that is still being copied.
TEST_F(CoordinatorTest, NoLaterSaveIsReleasedBeforeAnEarlierOne) {
  Begin(1);
  SaveOnAll(1, 100, BusyPolicy::kSkip);
  SaveOnAll(2, 101, BusyPolicy::kSkip);
  SaveOnAll(3, 102, BusyPolicy::kSkip);
  h.Feed(GroupCopied{h.AttemptOf(2), 0, 5});
  h.Copied(2, 0);
  EXPECT_EQ(h.Count<Release>(), 0) << "save 1 is still being copied";
  h.Feed(GroupCopied{h.AttemptOf(1), 0, 5});
  const auto releases = h.All<Release>();
  ASSERT_EQ(releases.size(), 2u) << "group 5 of both";
  EXPECT_EQ(releases[0].number, 1u);
  EXPECT_EQ(releases[1].number, 2u);
  h.Feed(RankCopied{h.AttemptOf(1), 0});
  for (uint64_t number = 1; number <= 3; ++number) EXPECT_EQ(ReleasesOf(world[0], number), 1) << number;
}

// Under supersede, a save that nobody has copied yet gives way; one that may have bytes on storage does not.
TEST_F(CoordinatorTest, SupersedeGivesUpTheOldestUncopiedSave) {
  Begin(2);
  h.Save(world[0], 1, 100, BusyPolicy::kSupersede);  // waits for rank 1: the first plan needs it
  h.Save(world[0], 2, 101, BusyPolicy::kSupersede);
  h.Save(world[0], 3, 102, BusyPolicy::kSupersede);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kSuperseded);
  h.Save(world[1], 1, 100, BusyPolicy::kSupersede);
  EXPECT_EQ(h.Told(world[1], 1).state, SaveState::kSuperseded);
  h.Save(world[1], 2, 101);
  h.Save(world[1], 3, 102);
  h.Finish(2, world);
  h.Finish(3, world);
  EXPECT_EQ(h.Told(world[1], 3).state, SaveState::kCommitted);
}

TEST_F(CoordinatorTest, SupersedeSkipsTheNewSaveWhenBothOlderAreBeingCopied) {
  Begin(1);
  SaveOnAll(1, 100, BusyPolicy::kSupersede);
  SaveOnAll(2, 101, BusyPolicy::kSupersede);
  SaveOnAll(3, 102, BusyPolicy::kSupersede);
  EXPECT_EQ(h.Told(world[0], 3).state, SaveState::kSkipped);
}

// Ranks that act on what a save delivers (keep the step, stop the run) must all act alike.
TEST_F(CoordinatorTest, TheVerdictsThatASaveDeliversAreFrozenByItsFirstArrival) {
  Begin(2);
  SaveOnAll(1, 100);
  h.Save(world[0], 2, 101);
  h.Finish(1, world);  // decided between the arrivals of save 2
  h.Save(world[1], 2, 101);
  for (const AnswerSave& answer : h.All<AnswerSave>()) {
    if (answer.number == 2) {
      EXPECT_TRUE(answer.earlier.empty()) << answer.session;
    }
  }
  SaveOnAll(3, 102);
  for (SessionId session : world) {
    for (const AnswerSave& answer : h.All<AnswerSave>()) {
      if (answer.number != 3 || answer.session != session) continue;
      ASSERT_EQ(answer.earlier.size(), 1u);
      EXPECT_EQ(answer.earlier[0].number, 1u);
      EXPECT_EQ(answer.earlier[0].state, SaveState::kCommitted);
    }
  }
}

// Half of a checkpoint of step 100, half of step 101 is no checkpoint.
TEST_F(CoordinatorTest, OneNumberWithTwoStepsFailsThatNumberAlone) {
  Begin(2);
  h.Save(world[0], 1, 100);
  h.Save(world[1], 1, 101);
  EXPECT_EQ(h.Told(world[0], 1).failure.reason, "STEPS_DIFFER");
  EXPECT_EQ(h.Told(world[1], 1).failure.reason, "STEPS_DIFFER");
  SaveOnAll(2, 102);
  h.Finish(2, world);
  EXPECT_EQ(h.Told(world[1], 2).state, SaveState::kCommitted);
}

TEST_F(CoordinatorTest, ANumberThatARankWentPastFailsNamingIt) {
  Begin(2);
  h.Save(world[0], 1, 100);
  h.Save(world[1], 2, 101);
  EXPECT_EQ(h.Told(world[0], 1).failure.reason, "SAVE_NOT_SENT");
  EXPECT_EQ(h.Told(world[0], 1).failure.rank, 1);
}

TEST_F(CoordinatorTest, ANumberThatARankNeverSendsFailsByLimit) {
  Begin(2);
  h.Save(world[0], 1, 100);
  h.Advance(Limits().save_progress_ms + kTickMs);
  EXPECT_EQ(h.Told(world[0], 1).failure.reason, "NO_PROGRESS");
  EXPECT_EQ(h.Told(world[0], 1).failure.stage, "arrive");
  EXPECT_EQ(h.Told(world[0], 1).failure.rank, 1);
}

// A step saved twice in one run would make two checkpoints of one name; a failed one may be tried again.
TEST_F(CoordinatorTest, AlreadyExistsOnlyForCommittedOrInFlightSteps) {
  Begin(1);
  SaveOnAll(1, 100);
  SaveOnAll(2, 100);
  EXPECT_EQ(h.Told(world[0], 2).failure.code, absl::StatusCode::kAlreadyExists);
  h.Finish(1, world);
  SaveOnAll(3, 100);
  EXPECT_EQ(h.Told(world[0], 3).failure.code, absl::StatusCode::kAlreadyExists);
  SaveOnAll(4, 101);
  h.Feed(RankIoFailed{h.AttemptOf(4), 0, "write", absl::AbortedError("EIO")});
  SaveOnAll(5, 101);
  h.Finish(5, world);
  EXPECT_EQ(h.Told(world[0], 5).state, SaveState::kCommitted);
}

TEST_F(CoordinatorTest, CancelPublishesAbortAndCountsWhatItStopped) {
  Begin(1);
  SaveOnAll(1, 100);
  const std::string attempt = h.AttemptOf(1);
  h.Feed(CancelRequested{77, 100});
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kCancelled);
  EXPECT_EQ(h.Last<AnswerCancel>().cancelled, 1);
  EXPECT_EQ(h.Files(100, attempt), std::vector<std::string>{"DECISION"});
  h.Feed(CancelRequested{78, 555});
  EXPECT_EQ(h.Last<AnswerCancel>().ticket, 78u);
  EXPECT_EQ(h.Last<AnswerCancel>().cancelled, 0);
}

// A save that runs when the daemon is told to go is finished, not thrown away.
TEST_F(CoordinatorTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  Begin(1);
  SaveOnAll(1, 100);
  h.Feed(DrainRequested{});
  EXPECT_EQ(h.Count<Drained>(), 0);
  SaveOnAll(2, 101);
  EXPECT_EQ(h.Told(world[0], 2).failure.reason, "DRAINING");
  EXPECT_EQ(ReleasesOf(world[0], 2), 0) << "save 1 is still being copied";
  h.Finish(1, world);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kCommitted);
  EXPECT_EQ(h.Count<Drained>(), 1);
  EXPECT_EQ(h.Last<Drained>().undecided, 0);
  EXPECT_EQ(ReleasesOf(world[0], 2), 1);
}

TEST_F(CoordinatorTest, DrainEndsAtItsLimit) {
  Begin(1);
  SaveOnAll(1, 100);
  h.Feed(DrainRequested{});
  h.Advance(Limits().drain_ms);
  EXPECT_EQ(h.Last<Drained>().undecided, 1);
}

TEST_F(CoordinatorTest, ASaveOfAnIncompleteWorldIsHeldAndThenRefusedNamingTheMissing) {
  h.Start();
  const SessionId first = h.Open(0, 3, 1);
  h.Feed(Registered{first, 1, "layout"});
  h.Save(first, 1, 100);
  EXPECT_EQ(h.Count<AnswerSave>(), 0);
  h.Advance(Limits().roster_ms + kTickMs);
  EXPECT_EQ(h.Told(first, 1).failure.reason, "RANKS_MISSING");
  EXPECT_EQ(h.Told(first, 1).failure.rank, 1);
  EXPECT_EQ(ReleasesOf(first, 1), 1);
}

TEST_F(CoordinatorTest, ARankThatRegisteredNothingIsToldSo) {
  h.Start();
  const SessionId session = h.Open(0, 1, 1);
  h.Save(session, 1, 100);
  EXPECT_EQ(h.Told(session, 1).failure.reason, "NOT_REGISTERED");
}

// Preemption: every rank must save at one step, or there is no checkpoint to go on from.
TEST_F(CoordinatorTest, AWishBecomesOneStepAheadOfAllRanks) {
  Begin(2);
  h.Feed(SaveWished{});
  h.Feed(StepsSeen{{-1, 5}});
  EXPECT_EQ(h.Count<SetSaveAt>(), 0) << "rank 0 has not asked yet";
  h.Feed(StepsSeen{{10, 14}});
  ASSERT_EQ(h.Count<SetSaveAt>(), 1);
  EXPECT_EQ(h.Last<SetSaveAt>().step, 14 + 2 * 4);
  h.Feed(StepsSeen{{15, 15}});
  EXPECT_EQ(h.Count<SetSaveAt>(), 1);
  h.Feed(SaveWished{});  // the step that is still ahead serves this wish too
  h.Feed(StepsSeen{{16, 16}});
  EXPECT_EQ(h.Last<SetSaveAt>().step, 14 + 2 * 4);
}

TEST_F(CoordinatorTest, ARankPastTheWishedStepFailsThatSaveByName) {
  Begin(2);
  h.Feed(SaveWished{});
  h.Feed(StepsSeen{{10, 10}});
  const int64_t step = h.Last<SetSaveAt>().step;
  h.Save(world[0], 1, step);
  h.Feed(StepsSeen{{step, step + 1}});
  EXPECT_EQ(h.Told(world[0], 1).failure.reason, "SAVE_AT_PASSED");
  EXPECT_EQ(h.Told(world[0], 1).failure.rank, 1);
}

}  // namespace
}  // namespace keepstep::daemon
