// Worlds that come and go: joins, resumes, claims, one answer to "latest".

#include "absl/strings/match.h"
#include "daemon/logic/epoch_scripts.h"
#include "daemon/logic/machine_harness.h"
#include "gtest/gtest.h"
#include "storage/attempt.h"
#include "storage/record.h"

namespace keepstep::daemon {
namespace {

using storage::StoreOp;
using storage::StoreResult;

class EpochTest : public testing::Test {
 protected:
  void Begin(int32_t ranks, uint8_t nonce = 10) {
    h.Start();
    world = h.OpenWorld(ranks, nonce);
    h.ForgetActions();
  }
  void Commit(uint64_t number, int64_t step) {
    for (SessionId session : world) h.Save(session, number, step);
    h.Finish(number, world);
    ASSERT_EQ(h.Told(world[0], number).state, SaveState::kCommitted);
  }
  bool Exists(const std::string& path) {
    return h.store().ReadPublished(*storage::BlobPath::Parse(path)).ok();
  }
  int PositionOfPublish(const char* leaf) {
    return h.Position([leaf](const Action& action) {
      const auto* store = std::get_if<DoStore>(&action);
      return store && store->what.kind == StoreOp::Kind::kPublish && absl::EndsWith(store->what.path, leaf);
    });
  }
  AnswerLoad Answer(uint64_t ticket) {
    for (const AnswerLoad& answer : h.All<AnswerLoad>()) {
      if (answer.ticket == ticket) return answer;
    }
    return {};
  }

  MachineHarness h;
  std::vector<SessionId> world;
};

// Two ranks that are told different epochs, or a rank told of one that a crash takes back, would be two
// worlds.
TEST_F(EpochTest, TheFirstJoinClaimsAndNobodyIsToldBeforeLatestAndRosterAreDurable) {
  h.Start();
  h.Open(0, 2, 1);
  h.Open(1, 2, 2);
  const int claim = PositionOfPublish("/CLAIM"), latest = PositionOfPublish("/LATEST");
  const int roster = h.Position([](const Action& a) { return std::holds_alternative<PutRoster>(a); });
  const int told = h.Position([](const Action& a) { return std::holds_alternative<AnswerOpen>(a); });
  EXPECT_LT(-1, claim);
  EXPECT_LT(claim, latest);
  EXPECT_LT(latest, roster);
  EXPECT_LT(roster, told);
  EXPECT_EQ(h.Snapshot().epoch, 1);
  EXPECT_EQ(h.roster.roster.size(), 2u);
}

TEST_F(EpochTest, OpenWithTheSameNonceAgainIsTheSameOpen) {
  Begin(1);
  h.Open(0, 1, 10);
  EXPECT_EQ(h.Last<AnswerOpen>().epoch, 1);
  EXPECT_EQ(h.Snapshot().sessions.size(), 1u);
}

// A restarted rank starts a new world; what the old world still does must not reach it.
TEST_F(EpochTest, ANewNonceClaimsTheNextEpochAndEndsRanksThatHaveSaved) {
  Begin(2);
  Commit(1, 100);
  h.ForgetActions();
  const SessionId newcomer = h.Open(0, 2, 50);
  EXPECT_EQ(h.Last<AnswerOpen>().session, newcomer);
  EXPECT_EQ(h.Last<AnswerOpen>().epoch, 2);
  EXPECT_EQ(h.Count<CloseSession>(), 2);
  h.Save(world[1], 2, 101);
  EXPECT_EQ(h.Told(world[1], 2).failure.reason, "STALE_EPOCH");
  h.Open(1, 2, 11, 1, 1);  // the old rank 1 wakes up and wants its epoch back
  EXPECT_EQ(h.Last<AnswerOpen>().failure.code, absl::StatusCode::kAborted);
}

// Ranks start at different times; one that only joined has nothing to lose by moving.
TEST_F(EpochTest, RanksThatNeitherLoadedNorSavedMoveSilently) {
  Begin(2);
  h.Open(0, 2, 50);
  EXPECT_EQ(h.Last<MoveSession>().session, world[1]);
  EXPECT_EQ(h.Last<MoveSession>().epoch, 2);
  EXPECT_EQ(h.Count<CloseSession>(), 1) << "the old rank 0";
  EXPECT_TRUE(h.Snapshot().missing_ranks.empty());
}

TEST_F(EpochTest, AnotherWorldSizeClaims) {
  Begin(2);
  h.Open(0, 4, 50);
  EXPECT_EQ(h.Snapshot().epoch, 2);
  EXPECT_EQ(h.Snapshot().world_size, 4);
  EXPECT_EQ(h.Count<CloseSession>(), 2);
}

// The claimer's nonce settles whose record it is when the reply was lost.
TEST_F(EpochTest, AClaimWithALostReplyIsSettledByReading) {
  h.Start();
  bool lost = false;
  h.intercept = [&](const StoreOp& op) -> std::optional<StoreResult> {
    if (lost || op.kind != StoreOp::Kind::kPublish || !absl::EndsWith(op.path, "/CLAIM")) return std::nullopt;
    lost = true;
    storage::RunStoreOp(h.store(), op);
    return StoreResult{.status = absl::UnavailableError("reply lost")};
  };
  h.Open(0, 1, 1);
  EXPECT_EQ(h.Last<AnswerOpen>().epoch, 1);
}

// An epoch whose CLAIM a power loss may take could be claimed again, by a world that mistakes these attempts
// for its own.
TEST_F(EpochTest, AClaimWhoseFlushFailedBurnsItsEpoch) {
  h.Start();
  bool failed = false;
  h.intercept = [&](const StoreOp& op) -> std::optional<StoreResult> {
    if (failed || op.kind != StoreOp::Kind::kPublish || !absl::EndsWith(op.path, "/CLAIM"))
      return std::nullopt;
    failed = true;
    storage::RunStoreOp(h.store(), op);
    return StoreResult{.status = absl::AbortedError("fsync failed")};
  };
  h.Open(0, 1, 1);
  EXPECT_EQ(h.Last<AnswerOpen>().epoch, 2);
}

// Nobody waits for room: it has to be made by whoever reads the error.
TEST_F(EpochTest, AClaimWithoutRoomRefusesAtOnceAndGoesOn) {
  Begin(1);
  Commit(1, 100);
  bool full = true;
  h.intercept = [&](const StoreOp& op) -> std::optional<StoreResult> {
    if (full && op.kind == StoreOp::Kind::kPublish)
      return StoreResult{.status = storage::DiskFull("no room")};
    return std::nullopt;
  };
  for (uint8_t nonce : {50, 51}) {
    const SessionId late = h.Open(0, 1, nonce);
    EXPECT_EQ(h.Last<AnswerOpen>().session, late);
    EXPECT_EQ(h.Last<AnswerOpen>().failure.code, absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(h.Last<AnswerOpen>().failure.reason, "DISK_FULL");
  }
  full = false;
  h.Advance(Limits().retry_no_room_ms + kTickMs);
  EXPECT_EQ(h.Snapshot().epoch, 2) << "claimed for nobody";
  h.Open(0, 1, 52);
  EXPECT_EQ(h.Last<AnswerOpen>().failure.code, absl::StatusCode::kOk);
  EXPECT_EQ(h.Snapshot().epoch, 3);
}

TEST_F(EpochTest, ALoadAgainWithoutRoomIsRefusedAtOnce) {
  Begin(1);
  Commit(1, 100);
  h.intercept = [](const StoreOp& op) -> std::optional<StoreResult> {
    if (op.kind == StoreOp::Kind::kPublish) return StoreResult{.status = storage::DiskFull("no room")};
    return std::nullopt;
  };
  h.Load(world[0], 7);
  EXPECT_EQ(Answer(7).failure.reason, "DISK_FULL");
  h.intercept = nullptr;
  h.Advance(Limits().retry_no_room_ms + kTickMs);
  h.Load(world[0], 8);
  EXPECT_TRUE(Answer(8).found);
  EXPECT_EQ(Answer(8).step, 100);
}

TEST_F(EpochTest, SomebodyElsesClaimIsSteppedOver) {
  v1::Claim claim;
  claim.set_epoch(1);
  claim.set_nonce("somebody else");
  ASSERT_TRUE(h.store()
                  .PublishExclusive(*storage::BlobPath::Parse("epochs/1/CLAIM"), storage::EncodeClaim(claim))
                  .ok());
  Begin(1);
  EXPECT_EQ(h.Snapshot().epoch, 2);
}

// Ranks that restore different steps train a model that never was.
TEST_F(EpochTest, EveryRankGetsTheSameLatestEvenWhenASaveCommitsBetweenTheirLoads) {
  Begin(2);
  Commit(1, 100);
  for (SessionId session : world) h.Feed(SessionDead{session});
  world = h.OpenWorld(2, 50);
  h.Load(world[0], 1);
  EXPECT_EQ(Answer(1).step, 100);
  for (SessionId session : world) h.Save(session, 1, 101);
  h.Finish(1, world);
  world[1] = h.Open(1, 2, 51, 2, 1);  // rank 1 lost its session before it loaded
  h.Restart();
  for (int32_t rank = 0; rank < 2; ++rank)
    world[rank] = h.Open(rank, 2, static_cast<uint8_t>(50 + rank), 2, 1);
  EXPECT_TRUE(Exists("epochs/2/LATEST"));
  const auto latest =
      DecodeLoadedStep(*h.store().ReadPublished(*storage::BlobPath::Parse("epochs/2/LATEST")));
  EXPECT_EQ(latest->step, 100) << "the epoch's answer never changes";
}

TEST_F(EpochTest, ALoadWaitsForTheWholeWorldAndNamesWhoIsMissing) {
  h.Start();
  const SessionId first = h.Open(0, 2, 1);
  h.Load(first, 9);
  EXPECT_EQ(h.Count<AnswerLoad>(), 0);
  h.Advance(Limits().roster_ms + kTickMs);
  EXPECT_EQ(Answer(9).failure.reason, "RANKS_MISSING");
  EXPECT_EQ(Answer(9).failure.rank, 1);
}

TEST_F(EpochTest, AJobWithoutCheckpointsLoadsNothing) {
  Begin(1);
  h.Load(world[0], 1);
  EXPECT_FALSE(Answer(1).found);
  EXPECT_EQ(Answer(1).failure.code, absl::StatusCode::kOk);
}

TEST_F(EpochTest, AnUncommittedStepIsNotFound) {
  Begin(1);
  h.Save(world[0], 1, 500);
  h.Feed(SessionDead{world[0]});
  world = h.OpenWorld(1, 50);
  h.LoadStep(world[0], 1, 500);
  EXPECT_EQ(Answer(1).failure.code, absl::StatusCode::kNotFound);
}

// A debug run that loads an old step and exits changes nothing; one that saves makes its branch the latest.
TEST_F(EpochTest, LatestFollowsTheBranchThatSaved) {
  Begin(1);
  Commit(1, 100);
  Commit(2, 200);
  h.Feed(SessionDead{world[0]});
  world = h.OpenWorld(1, 50);  // the debug run
  h.LoadStep(world[0], 1, 100);
  EXPECT_EQ(Answer(1).step, 100);
  h.Feed(SessionDead{world[0]});
  world = h.OpenWorld(1, 60);
  h.Load(world[0], 2);
  EXPECT_EQ(Answer(2).step, 200);
  h.Feed(SessionDead{world[0]});
  world = h.OpenWorld(1, 70);  // the rollback: its only save fails, but it went on from 100
  h.LoadStep(world[0], 3, 100);
  h.Save(world[0], 1, 110);
  EXPECT_TRUE(Exists("epochs/4/PARENT"));
  h.Feed(SessionDead{world[0]});
  world = h.OpenWorld(1, 80);
  h.Load(world[0], 4);
  EXPECT_EQ(Answer(4).step, 100);
}

TEST_F(EpochTest, RanksThatLoadedDifferentStepsCannotSave) {
  Begin(2);
  Commit(1, 100);
  Commit(2, 200);
  for (SessionId session : world) h.Feed(SessionDead{session});
  world = h.OpenWorld(2, 50);
  h.LoadStep(world[0], 1, 100);
  h.LoadStep(world[1], 2, 200);
  for (SessionId session : world) h.Save(session, 1, 201);
  EXPECT_EQ(h.Told(world[0], 1).failure.code, absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(h.Told(world[0], 1).failure.stage, "parent");
}

// Loading again after a save starts the next epoch, for all ranks together.
TEST_F(EpochTest, LoadingAgainMovesTheWholeWorld) {
  Begin(2);
  Commit(1, 100);
  h.Load(world[0], 1);
  EXPECT_EQ(h.Count<AnswerLoad>(), 0) << "rank 1 has not asked";
  h.Load(world[1], 2);
  EXPECT_EQ(Answer(1).step, 100);
  EXPECT_EQ(Answer(2).step, 100);
  EXPECT_EQ(Answer(2).epoch, 2);
  EXPECT_EQ(h.Count<MoveSession>(), 2);
  Commit(2, 100);  // its own epoch: the step is free again
}

TEST_F(EpochTest, LoadingDifferentStepsAgainIsRefusedOnAllRanks) {
  Begin(2);
  Commit(1, 100);
  h.Load(world[0], 1);
  h.LoadStep(world[1], 2, 100);
  EXPECT_EQ(Answer(1).failure.reason, "LOADS_DIFFER");
  EXPECT_EQ(Answer(2).failure.reason, "LOADS_DIFFER");
}

// A sealed save is the trainer's last word before it died: the next world must find it.
TEST_F(EpochTest, AClaimFinishesSealedSavesFirst) {
  Begin(1);
  h.Save(world[0], 1, 100);
  h.Copied(1, 0);
  h.Sealed(world[0], 1);
  h.Feed(SessionDead{world[0]});
  const SessionId newcomer = h.Open(0, 1, 50);
  EXPECT_EQ(h.Count<AnswerOpen>(), 0) << "the claim waits for the flush";
  h.Flushed(1, 0);
  EXPECT_EQ(h.Last<AnswerOpen>().session, newcomer);
  h.Load(newcomer, 1);
  EXPECT_EQ(Answer(1).step, 100);
}

TEST_F(EpochTest, AClaimGivesUpSavesThatAreNotSealedInTime) {
  Begin(1);
  h.Save(world[0], 1, 100);
  h.Open(0, 1, 50);  // the old rank hangs, unsealed
  EXPECT_EQ(h.Snapshot().epoch, 1);
  h.Advance(Limits().claim_unsealed_ms + kTickMs);
  EXPECT_EQ(h.Snapshot().epoch, 2);
}

// Attempts that nobody remembers are settled by what is durable: all parts → COMMIT, else ABORT.
TEST_F(EpochTest, AClaimSettlesWhatOlderRunsLeft) {
  Begin(1);
  h.Save(world[0], 1, 100);
  h.hold_catalog = true;  // the part is durable, the decision is not: publishing it is cut off
  h.intercept = [](const StoreOp& op) -> std::optional<StoreResult> {
    if (op.kind == StoreOp::Kind::kPublish && absl::EndsWith(op.path, "DECISION")) {
      return StoreResult{.status = absl::UnavailableError("down")};
    }
    return std::nullopt;
  };
  h.Finish(1, world);
  const std::string attempt = h.AttemptOf(1);
  h.intercept = nullptr;
  h.hold_catalog = false;
  h.journal.clear();  // the catalog was lost
  h.roster_known = false;
  h.Restart();
  world = h.OpenWorld(1, 50);
  h.Load(world[0], 1);
  EXPECT_EQ(Answer(1).step, 100);
  EXPECT_EQ(Answer(1).attempt, attempt);
}

TEST_F(EpochTest, ALostSessionMayResumeWithinItsLimit) {
  Begin(1);
  h.Feed(SessionLost{world[0]});
  h.Advance(Limits().resume_ms - kTickMs);
  const SessionId resumed = h.Open(0, 1, 10, 1, 0);
  EXPECT_EQ(h.Last<AnswerOpen>().session, resumed);
  EXPECT_EQ(h.Last<AnswerOpen>().failure.code, absl::StatusCode::kOk);
  h.Advance(Limits().resume_ms);
  EXPECT_TRUE(h.Snapshot().missing_ranks.empty());
}

// A rank that loads and leaves at once, as an evaluation does, must not leave a slower one of its world waiting for it.
TEST_F(EpochTest, ARankThatAsksAfterItsPeersHaveLeftIsToldTheSame) {
  Begin(3);
  h.Load(world[0], 1);
  h.Feed(SessionDead{world[0]});
  h.Feed(SessionDead{world[1]});
  h.Load(world[2], 2);
  EXPECT_EQ(Answer(1).epoch, 1);
  EXPECT_EQ(Answer(2).epoch, 1);
  EXPECT_EQ(Answer(2).failure.code, absl::StatusCode::kOk);
}

TEST_F(EpochTest, AChangedLimitHoldsForASessionThatIsLostAlready) {
  Begin(1);
  h.Feed(SessionLost{world[0]});
  h.Advance(5'000);
  h.SetLimits({.resume_ms = 4'000});
  h.Advance(kTickMs);
  EXPECT_EQ(h.Snapshot().missing_ranks, std::vector<int32_t>{0});
}

TEST_F(EpochTest, ASessionLostForTooLongIsDead) {
  Begin(2);
  for (SessionId session : world) h.Save(session, 1, 100);
  h.Feed(SessionLost{world[1]});
  h.Advance(Limits().resume_ms + kTickMs);
  EXPECT_EQ(h.Last<CloseSession>().session, world[1]);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kFailed);
  EXPECT_EQ(h.Snapshot().missing_ranks, std::vector<int32_t>{1});
}

// The new page starts released: what was not copied by then may change under the copy.
TEST_F(EpochTest, ASessionThatResumesWhileItIsCopiedFailsThatSave) {
  Begin(1);
  h.Save(world[0], 1, 100);
  const SessionId resumed = h.Open(0, 1, 10, 1, 1);
  EXPECT_EQ(h.Told(resumed, 1).failure.reason, "SESSION_RESUMED");
}

TEST_F(EpochTest, ASessionThatResumesAfterItsCopyKeepsItsSave) {
  Begin(1);
  h.Save(world[0], 1, 100);
  h.Copied(1, 0);
  const SessionId resumed = h.Open(0, 1, 10, 1, 1);
  h.Sealed(resumed, 1);
  h.Flushed(1, 0);
  EXPECT_EQ(h.Told(resumed, 1).state, SaveState::kCommitted);
}

// It was thought dead, but what it had sealed went on; the new session hears how that ended.
TEST_F(EpochTest, ASessionThatComesBackAfterItsLimitHearsOfItsSealedSave) {
  Begin(1);
  h.Save(world[0], 1, 100);
  h.Copied(1, 0);
  h.Sealed(world[0], 1);
  h.Feed(SessionLost{world[0]});
  h.Advance(Limits().resume_ms + kTickMs);
  const SessionId back = h.Open(0, 1, 10, 1, 1);
  h.Flushed(1, 0);
  EXPECT_EQ(h.Told(back, 1).state, SaveState::kCommitted);
}

TEST_F(EpochTest, RanksThatCannotBeAreInvalid) {
  h.Start();
  for (const auto& [rank, size] :
       {std::pair(-1, 2), std::pair(2, 2), std::pair(0, 0), std::pair(0, 1 << 20)}) {
    h.Open(rank, size, 1);
    EXPECT_EQ(h.Last<AnswerOpen>().failure.code, absl::StatusCode::kInvalidArgument)
        << rank << " of " << size;
  }
}

}  // namespace
}  // namespace keepstep::daemon
