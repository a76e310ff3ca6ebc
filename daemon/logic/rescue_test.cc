// Ranks that are dead with their memory kept: what may be saved for them, who waits, and what must not be lost by it.

#include "absl/strings/match.h"
#include "daemon/logic/world_test.h"
#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

class RescueTest : public WorldTest {
 protected:
  void KeepAll() {
    for (SessionId session : world) h.Feed(SessionKept{session});
  }
  void EndAll() {
    for (SessionId session : world) h.Feed(SessionDead{session});
  }
  int Claims() const {
    int count = 0;
    for (const DoStore& store : h.All<DoStore>()) {
      count += store.what.kind == storage::StoreOp::Kind::kPublish && absl::EndsWith(store.what.path, "/CLAIM");
    }
    return count;
  }
};

TEST_F(RescueTest, DeadRanksAreSavedAsOneSave) {
  Begin(2);
  SaveOnAll(1, 100);
  h.Finish(1, world);
  KeepAll();
  h.Feed(RescueRequested{105});
  const auto started = h.Last<RescueStarted>();
  EXPECT_EQ(started.step, 105);
  EXPECT_EQ(started.number, 2u);
  EXPECT_EQ(h.AttemptOf(started.number), started.attempt);
  h.Finish(started.number, world);
  EXPECT_EQ(h.Told(world[0], started.number).state, SaveState::kCommitted);
  EXPECT_EQ(h.Told(world[1], started.number).state, SaveState::kCommitted);
  EXPECT_EQ(h.Snapshot().last_committed_step, 105);
}

TEST_F(RescueTest, WithoutASealNothingCommits) {
  Begin(2);
  KeepAll();
  h.Feed(RescueRequested{5});
  const uint64_t number = h.Last<RescueStarted>().number;
  for (int32_t rank = 0; rank < 2; ++rank) {
    h.Copied(number, rank);
    h.Flushed(number, rank);
  }
  h.Sealed(world[0], number);
  EXPECT_EQ(h.Told(world[0], number).state, SaveState::kPersisted);
  h.Feed(VerdictSeen{world[1], number, false});
  EXPECT_EQ(h.Told(world[1], number).state, SaveState::kFailed);
  EXPECT_EQ(h.Told(world[1], number).failure.reason, "POISONED");
}

// A torn world is no world: the others' state alone would be a checkpoint with holes.
TEST_F(RescueTest, NothingIsRescuedWhileARankLivesOrIsMissing) {
  Begin(2);
  h.Feed(SessionKept{world[0]});
  h.Feed(RescueRequested{5});
  EXPECT_EQ(h.Count<RescueStarted>(), 0);
  EXPECT_EQ(h.Last<RescueRefused>().failure.reason, "STALE_EPOCH");
  h.Feed(SessionDead{world[1]});
  h.Feed(RescueRequested{5});
  EXPECT_EQ(h.Count<RescueStarted>(), 0);
}

TEST_F(RescueTest, OnlyWhatIsNewerThanTheLastCommitIsRescued) {
  Begin(1);
  SaveOnAll(1, 100);
  h.Finish(1, world);
  KeepAll();
  for (const int64_t step : {int64_t{99}, int64_t{100}, int64_t{-1}}) {
    h.ForgetActions();
    h.Feed(RescueRequested{step});
    EXPECT_EQ(h.Count<RescueStarted>(), 0) << step;
    EXPECT_EQ(h.Count<RescueRefused>(), 1) << step;
  }
}

TEST_F(RescueTest, WhatWasLoadedAndNotTrainedOnIsNotRescued) {
  Begin(1);
  SaveOnAll(1, 100);
  h.Finish(1, world);
  EndAll();
  world = h.OpenWorld(1, 20);
  h.Load(world[0], 1);
  EXPECT_EQ(h.Last<AnswerLoad>().step, 100);
  KeepAll();
  h.Feed(RescueRequested{100});
  EXPECT_EQ(h.Last<RescueRefused>().failure.reason, "STEP_EXISTS");
  h.Feed(RescueRequested{101});
  EXPECT_EQ(h.Last<RescueStarted>().step, 101);
}

// What the dead rank had not sealed it never will: the living must not wait for it.
TEST_F(RescueTest, AKeptRanksUnsealedSavesFailAtOnce) {
  Begin(2);
  SaveOnAll(1, 100);
  h.Copied(1, 0);
  h.Copied(1, 1);
  h.Feed(SessionKept{world[0]});
  EXPECT_EQ(h.Told(world[1], 1).state, SaveState::kFailed);
  EXPECT_EQ(h.Told(world[1], 1).failure.reason, "TRAINER_DIED");
  h.Feed(SessionKept{world[1]});
  h.Feed(RescueRequested{100});
  EXPECT_EQ(h.Last<RescueStarted>().step, 100) << "the save of the same step failed";
}

TEST_F(RescueTest, AKeptRanksSealedSaveGoesOn) {
  Begin(1);
  SaveOnAll(1, 100);
  h.Copied(1, 0);
  h.Sealed(world[0], 1);
  KeepAll();
  h.Feed(RescueRequested{100});
  EXPECT_EQ(h.Last<RescueRefused>().failure.reason, "STEP_EXISTS");
  h.Flushed(1, 0);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kCommitted);
}

// Its driver holds it for as long as it may, whatever a lost connection of a live process would get.
TEST_F(RescueTest, AKeptSessionDoesNotExpireByItself) {
  Begin(1);
  h.Feed(SessionLost{world[0]});
  h.Feed(SessionKept{world[0]});
  h.Feed(SessionLost{world[0]});
  h.Advance(Limits().resume_ms * 2);
  EXPECT_EQ(h.Count<CloseSession>(), 0);
  h.Feed(RescueRequested{5});
  EXPECT_EQ(h.Count<RescueStarted>(), 1);
}

// The restarted run loads the rescued step: so its claim waits for what becomes of it.
TEST_F(RescueTest, ANewRunWaitsForTheRescueAndLoadsIt) {
  Begin(2);
  KeepAll();
  h.ForgetActions();
  const SessionId first = h.Open(0, 2, 20);
  h.Advance(1000);
  EXPECT_EQ(Claims(), 0) << "before the dead are judged";
  h.Feed(RescueRequested{7});
  const uint64_t number = h.Last<RescueStarted>().number;
  h.Advance(Limits().claim_unsealed_ms + 1000);
  EXPECT_EQ(Claims(), 0) << "while the rescue is written";
  EXPECT_EQ(h.Told(world[0], number).state, SaveState::kNone) << "nothing failed it";
  h.Finish(number, world);
  EXPECT_EQ(h.Told(world[0], number).state, SaveState::kCommitted);
  EndAll();
  h.Advance(1000);
  EXPECT_EQ(Claims(), 1);
  const SessionId second = h.Open(1, 2, 21);
  h.Load(first, 1);
  h.Load(second, 2);
  ASSERT_EQ(h.Count<AnswerLoad>(), 2);
  for (const AnswerLoad& answer : h.All<AnswerLoad>()) EXPECT_EQ(answer.step, 7);
}

TEST_F(RescueTest, ANewRunWaitsForNoJudgementForEver) {
  Begin(1);
  KeepAll();
  h.ForgetActions();
  h.Open(0, 1, 20);
  h.Advance(Limits().claim_unsealed_ms + 1000);
  EXPECT_EQ(Claims(), 1);
  EXPECT_EQ(h.Last<CloseSession>().session, world[0]) << "the kept one is let go";
  h.Feed(RescueRequested{7});
  EXPECT_EQ(h.Count<RescueStarted>(), 0);
}

TEST_F(RescueTest, ADeadRankDoesNotMoveIntoTheNextEpoch) {
  Begin(2);
  h.Feed(SessionKept{world[0]});
  h.ForgetActions();
  h.Open(1, 2, 21);  // rank 1 was started anew; rank 0 has neither loaded nor saved
  h.Advance(1000);
  EXPECT_EQ(Claims(), 1);
  EXPECT_EQ(h.Count<MoveSession>(), 0);
}

TEST_F(RescueTest, ARescueThatTakesTooLongIsGivenUp) {
  Begin(1);
  KeepAll();
  h.Feed(RescueRequested{7});
  const uint64_t number = h.Last<RescueStarted>().number;
  EndAll();  // the hold is over
  EXPECT_EQ(h.Snapshot().saves.size(), 0u);
  EXPECT_EQ(h.Files(7, h.AttemptOf(number)), std::vector<std::string>{"DECISION"});
}

TEST_F(RescueTest, ADrainingDaemonStartsNone) {
  Begin(1);
  KeepAll();
  h.Feed(DrainRequested{});
  h.Feed(RescueRequested{7});
  EXPECT_EQ(h.Last<RescueRefused>().failure.reason, "DRAINING");
}

}  // namespace
}  // namespace keepstep::daemon
