// One save at a time: what may be told when, and what a failure leaves.

#include "absl/strings/match.h"
#include "daemon/logic/world_test.h"
#include "gtest/gtest.h"
#include "storage/attempt.h"
#include "storage/record.h"

namespace keepstep::daemon {
namespace {

using storage::StoreOp;
using storage::StoreResult;

bool IsPublishOf(const Action& action, const char* leaf) {
  const auto* store = std::get_if<DoStore>(&action);
  return store && store->what.kind == StoreOp::Kind::kPublish && absl::EndsWith(store->what.path, leaf);
}

bool IsDelete(const Action& action) {
  const auto* store = std::get_if<DoStore>(&action);
  return store &&
         (store->what.kind == StoreOp::Kind::kDelete || store->what.kind == StoreOp::Kind::kDeleteTree);
}

bool IsCommittedReport(const Action& action) {
  const auto* report = std::get_if<Report>(&action);
  return report && report->status.state == SaveState::kCommitted;
}

template <class A>
bool Is(const Action& action) {
  return std::holds_alternative<A>(action);
}

class SaveTest : public WorldTest {};

// A trainer that deletes its older copy on COMMITTED must be able to restore this one after any crash.
TEST_F(SaveTest, CommittedIsToldAfterTheDecisionAndTheCatalog) {
  Begin(2);
  SaveOnAll(1, 100);
  h.Finish(1, world);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kCommitted);
  EXPECT_EQ(h.Told(world[1], 1).state, SaveState::kCommitted);
  const int journal = h.Position(Is<PutJournal>), start = h.Position(Is<StartRank>),
            part = h.Position(Is<WritePart>);
  const int decision = h.Position([](const Action& a) { return IsPublishOf(a, "/DECISION"); });
  const int record = h.Position(Is<RecordCommit>), told = h.Position(IsCommittedReport),
            erase = h.Position(Is<EraseJournal>);
  EXPECT_LT(-1, journal);
  EXPECT_LT(journal, start);
  EXPECT_LT(start, part);
  EXPECT_LT(part, decision);
  EXPECT_LT(decision, record);
  EXPECT_LT(record, told);
  EXPECT_LT(told, erase);
  EXPECT_TRUE(h.journal.empty());
}

// Without a durable journal entry nobody would reclaim the blobs of a save that a crash cut off.
TEST_F(SaveTest, NoCopyStartsBeforeTheJournalEntryIsDurable) {
  Begin(1);
  h.hold_catalog = true;
  h.Save(world[0], 1, 100);
  EXPECT_EQ(h.Count<PutJournal>(), 1);
  EXPECT_EQ(h.Count<StartRank>(), 0);
  h.ReleaseCatalog();
  EXPECT_EQ(h.Count<StartRank>(), 1);
}

TEST_F(SaveTest, AJournalThatCannotBeWrittenFailsTheSaveAlone) {
  Begin(1);
  h.catalog_fault = [](const Action& action) {
    return Is<PutJournal>(action) ? absl::ResourceExhaustedError("disk full") : absl::OkStatus();
  };
  h.Save(world[0], 1, 100);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kFailed);
  EXPECT_EQ(h.Told(world[0], 1).failure.code, absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(h.Told(world[0], 1).failure.stage, "journal");
  h.catalog_fault = nullptr;
  h.Save(world[0], 2, 101);
  EXPECT_EQ(h.Count<StartRank>(), 1);
}

// The catalog is an index: the decision on storage wins, and the journal entry makes a restart write the row.
TEST_F(SaveTest, ACatalogErrorDoesNotUndoACommit) {
  Begin(1);
  h.catalog_fault = [](const Action& action) {
    return Is<RecordCommit>(action) ? absl::UnavailableError("catalog") : absl::OkStatus();
  };
  h.Save(world[0], 1, 100);
  h.Finish(1, world);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kCommitted);
  EXPECT_EQ(h.journal.size(), 1u);
  h.catalog_fault = nullptr;
  h.Restart();
  EXPECT_EQ(h.catalog.size(), 1u);
  EXPECT_TRUE(h.journal.empty());
}

// A rank that updates before its copy is done would be saved half of one step, half of the next.
TEST_F(SaveTest, AGroupIsReleasedWhenCopiedAndNotBefore) {
  Begin(1);
  h.Save(world[0], 1, 100);
  EXPECT_EQ(h.Count<Release>(), 0);
  h.Feed(GroupCopied{h.AttemptOf(1), 0, 7});
  ASSERT_EQ(h.Count<Release>(), 1);
  EXPECT_EQ(h.Last<Release>().group, 7u);
  EXPECT_FALSE(h.Last<Release>().all_groups);
  h.Feed(RankCopied{h.AttemptOf(1), 0});
  ASSERT_EQ(h.Count<Release>(), 2);
  EXPECT_TRUE(h.Last<Release>().all_groups);
  h.Flushed(1, 0);
  h.Sealed(world[0], 1);
  EXPECT_EQ(h.Count<Release>(), 2) << "once per save";
}

// A part is the durable form of all seals: with one missing, a restart would commit what some rank may have
// torn.
TEST_F(SaveTest, ThePartWaitsForEverySealAndEveryFlush) {
  Begin(2);
  SaveOnAll(1, 100);
  h.Copied(1, 0);
  h.Copied(1, 1);
  h.Sealed(world[0], 1);
  h.Flushed(1, 0);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kPersisted);
  h.Flushed(1, 1);
  EXPECT_EQ(h.Told(world[1], 1).state, SaveState::kSnapshotted);
  EXPECT_EQ(h.Count<WritePart>(), 0);
  EXPECT_EQ(h.Snapshot().saves.at(0).stage, SaveStage::kSeal);
  EXPECT_EQ(h.Snapshot().saves.at(0).waiting_for_ranks, std::vector<int32_t>{1});
  h.Sealed(world[1], 1);
  EXPECT_EQ(h.Count<WritePart>(), 1);
}

// A watchdog that let updates through must never be followed by a commit of what they tore.
TEST_F(SaveTest, PoisonFailsTheSaveOnEveryRank) {
  Begin(2);
  SaveOnAll(1, 100);
  h.Copied(1, 0);
  h.Sealed(world[0], 1);
  h.Feed(VerdictSeen{world[1], 1, false});
  for (SessionId session : world) {
    EXPECT_EQ(h.Told(session, 1).state, SaveState::kFailed);
    EXPECT_EQ(h.Told(session, 1).failure.reason, "POISONED");
    EXPECT_EQ(h.Told(session, 1).failure.rank, 1);
  }
  EXPECT_EQ(h.Count<WritePart>(), 0);
}

// The watchdog may have opened the gate a moment before the copy was over: what was read last may be torn all the same.
TEST_F(SaveTest, PoisonThatIsSeenAfterTheCopyFailsTheSaveToo) {
  Begin(2);
  SaveOnAll(1, 100);
  for (const int32_t rank : {0, 1}) h.Copied(1, rank);
  h.Sealed(world[0], 1);
  h.Feed(VerdictSeen{world[1], 1, false});
  for (SessionId session : world) EXPECT_EQ(h.Told(session, 1).failure.reason, "POISONED");
  EXPECT_EQ(h.Count<WritePart>(), 0);
}

TEST_F(SaveTest, ASealBeforeTheCopyIsALieThatCostsItsOwnSave) {
  Begin(1);
  h.Save(world[0], 1, 100);
  h.Sealed(world[0], 1);
  EXPECT_EQ(h.Told(world[0], 1).failure.reason, "POISONED");
}

// Whoever deletes before ABORT is in the slot may delete what somebody else is committing.
TEST_F(SaveTest, AbortStopsPublishesDeletesAndForgetsInThisOrder) {
  Begin(1);
  h.Save(world[0], 1, 100);
  const std::string attempt = h.AttemptOf(1);
  h.hold_io_stopped = true;
  h.Feed(RankIoFailed{attempt, 0, "write", absl::AbortedError("EIO")});
  EXPECT_EQ(h.Count<StopIo>(), 1);
  EXPECT_EQ(h.Position([](const Action& a) { return IsPublishOf(a, "/DECISION"); }), -1)
      << "its files are in use";
  EXPECT_EQ(h.Count<Release>(), 1) << "the gate does not wait for the abort";
  h.StopIo(attempt);
  const int decision = h.Position([](const Action& a) { return IsPublishOf(a, "/DECISION"); });
  const int deleted = h.Position(IsDelete), erased = h.Position(Is<EraseJournal>);
  EXPECT_LT(-1, decision);
  EXPECT_LT(decision, deleted);
  EXPECT_LT(deleted, erased);
  EXPECT_EQ(h.Files(100, attempt), std::vector<std::string>{"DECISION"});
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kFailed);
  EXPECT_EQ(h.Told(world[0], 1).failure.stage, "write");
  EXPECT_TRUE(h.journal.empty());
}

// The journal entry is all that remembers the blobs: it goes last.
TEST_F(SaveTest, SpaceThatCannotBeReclaimedStaysInTheJournalAndIsTriedAgain) {
  Begin(1);
  h.Save(world[0], 1, 100);
  const std::string attempt = h.AttemptOf(1);
  bool broken = true;
  h.intercept = [&](const StoreOp& op) -> std::optional<StoreResult> {
    if (broken && op.kind == StoreOp::Kind::kDelete)
      return StoreResult{.status = absl::PermissionDeniedError("no")};
    return std::nullopt;
  };
  h.Feed(RankIoFailed{attempt, 0, "write", absl::AbortedError("EIO")});
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kFailed) << "the decision is durable";
  EXPECT_EQ(h.journal.size(), 1u);
  broken = false;
  h.Advance(1'000);
  EXPECT_TRUE(h.journal.empty());
  EXPECT_EQ(h.Files(100, attempt), std::vector<std::string>{"DECISION"});
}

// Nobody can commit what has no part: a disk that has no room for the ABORT does not delay what trainers
// hear.
TEST_F(SaveTest, AnAbortThatCannotBePublishedIsReportedAtOnceAndPublishedLater) {
  Begin(1);
  h.Save(world[0], 1, 100);
  const std::string attempt = h.AttemptOf(1);
  bool down = true;
  h.intercept = [&](const StoreOp&) -> std::optional<StoreResult> {
    if (down) return StoreResult{.status = absl::UnavailableError("down")};
    return std::nullopt;
  };
  h.Feed(RankIoFailed{attempt, 0, "write", absl::ResourceExhaustedError("ENOSPC")});
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kFailed);
  EXPECT_EQ(h.Told(world[0], 1).failure.code, absl::StatusCode::kResourceExhausted);
  h.Advance(Limits().abort_report_ms + kTickMs);
  down = false;
  h.Advance(Limits().retry_most_ms + kTickMs);
  EXPECT_EQ(h.Files(100, attempt), std::vector<std::string>{"DECISION"});
  EXPECT_EQ(h.Count<Report>(), 1) << "a verdict is given once";
}

// A part may be there, and a restart may commit by it: trainers are told within a limit that nobody knows.
TEST_F(SaveTest, AnAbortAfterThePartThatCannotBePublishedIsUncertainWithinItsLimit) {
  Begin(1);
  h.Save(world[0], 1, 100);
  h.hold_parts = true;
  h.Finish(1, world);
  h.intercept = [](const StoreOp&) { return StoreResult{.status = absl::UnavailableError("down")}; };
  h.Feed(PartWritten{h.AttemptOf(1), absl::AbortedError("EIO")});
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kPersisted);
  h.Advance(Limits().abort_report_ms + kTickMs);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kFailed);
  EXPECT_EQ(h.Told(world[0], 1).failure.reason, "DURABILITY_UNCERTAIN");
}

// A full disk is no outage: who reads the error can mend it, and does not wait for it.
TEST_F(SaveTest, AnAbortThatHasNoRoomAfterThePartIsUncertainWithinSeconds) {
  Begin(1);
  h.Save(world[0], 1, 100);
  bool full = true;
  h.intercept = [&](const StoreOp& op) -> std::optional<StoreResult> {
    if (full && op.kind == StoreOp::Kind::kPublish)
      return StoreResult{.status = storage::DiskFull("no room")};
    return std::nullopt;
  };
  h.Finish(1, world);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kPersisted);
  h.Advance(Limits().no_room_ms + kTickMs);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kFailed);
  EXPECT_EQ(h.Told(world[0], 1).failure.code, absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(h.Told(world[0], 1).failure.reason, "DURABILITY_UNCERTAIN");
  full = false;
  h.Advance(Limits().retry_no_room_ms + kTickMs);
  EXPECT_EQ(h.Files(100, h.AttemptOf(1)), std::vector<std::string>{"DECISION"}) << "its space is back";
}

// The reply to a COMMIT was lost and the store went away: the record decides, not what we believe.
TEST_F(SaveTest, ACommitFoundWhileAbortingIsACommit) {
  Begin(1);
  h.Save(world[0], 1, 100);
  const std::string attempt = h.AttemptOf(1);
  bool first = true, down = false;
  h.intercept = [&](const StoreOp& op) -> std::optional<StoreResult> {
    if (first && op.kind == StoreOp::Kind::kSyncTree) {  // the commit gives up before its slot is looked at
      first = false;
      return StoreResult{.status = absl::UnavailableError("down")};
    }
    if (!down && op.kind == StoreOp::Kind::kPublish && absl::EndsWith(op.path, "DECISION")) {
      down = true;
      v1::Decision commit;
      commit.set_kind(v1::Decision::COMMIT);
      commit.set_step(100);
      commit.set_attempt(attempt);
      EXPECT_TRUE(h.store()
                      .PublishExclusive(*storage::BlobPath::Parse(op.path), storage::EncodeDecision(commit))
                      .ok());
    }
    return std::nullopt;
  };
  h.Finish(1, world);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kCommitted);
  EXPECT_EQ(h.Position(IsDelete), -1);
}

// What a failed flush may have lost is never called the last good checkpoint.
TEST_F(SaveTest, AnUncertainDecisionIsFailedAndNeverDeleted) {
  Begin(1);
  h.Save(world[0], 1, 100);
  h.intercept = [&](const StoreOp& op) -> std::optional<StoreResult> {
    if (op.kind != StoreOp::Kind::kPublish || !absl::EndsWith(op.path, "DECISION")) return std::nullopt;
    storage::RunStoreOp(h.store(), op);
    return StoreResult{.status = absl::AbortedError("fsync of the directory failed")};
  };
  h.Finish(1, world);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kFailed);
  EXPECT_EQ(h.Told(world[0], 1).failure.reason, "DURABILITY_UNCERTAIN");
  EXPECT_EQ(h.Position(IsDelete), -1);
  EXPECT_EQ(h.journal.size(), 1u) << "a restart settles it by what is there";
}

// Its memory is gone with it: what it had not sealed can only be torn.
TEST_F(SaveTest, ADeadUnsealedRankFailsTheSaveAtOnce) {
  Begin(2);
  SaveOnAll(1, 100);
  h.Copied(1, 1);
  h.Feed(SessionDead{world[1]});
  EXPECT_EQ(h.Told(world[0], 1).failure.reason, "TRAINER_DIED");
  EXPECT_EQ(h.Told(world[0], 1).failure.rank, 1);
}

// What was copied and sealed belongs to the daemon: the death of its trainer loses nothing.
TEST_F(SaveTest, ADeadSealedRankLosesNothing) {
  Begin(2);
  SaveOnAll(1, 100);
  h.Copied(1, 1);
  h.Sealed(world[1], 1);
  h.Feed(SessionDead{world[1]});
  h.Flushed(1, 1);
  h.Copied(1, 0);
  h.Flushed(1, 0);
  h.Sealed(world[0], 1);
  EXPECT_EQ(h.Told(world[0], 1).state, SaveState::kCommitted);
}

// A save that stands still keeps its space and its place among the two in flight.
TEST_F(SaveTest, NoProgressFailsTheSaveNamingWhomItWaitedFor) {
  Begin(2);
  SaveOnAll(1, 100);
  h.Copied(1, 0);
  h.Advance(Limits().save_progress_ms - 1'000);
  h.Feed(SaveProgressed{h.AttemptOf(1)});
  h.Advance(2'000);
  EXPECT_NE(h.Told(world[0], 1).state, SaveState::kFailed);
  h.Advance(Limits().save_progress_ms);
  EXPECT_EQ(h.Told(world[0], 1).failure.reason, "NO_PROGRESS");
  EXPECT_EQ(h.Told(world[0], 1).failure.stage, "copy");
  EXPECT_EQ(h.Told(world[0], 1).failure.rank, 1);
}

// The first plan needs every rank's registration; later ones do not wait for anybody.
TEST_F(SaveTest, TheFirstSaveWaitsForAllRanksAndTheNextDoesNot) {
  Begin(2);
  h.Save(world[0], 1, 100);
  EXPECT_EQ(h.Count<MakePlan>(), 0);
  h.Save(world[1], 1, 100);
  EXPECT_EQ(h.Count<MakePlan>(), 1);
  EXPECT_TRUE(h.Last<MakePlan>().first);
  EXPECT_EQ(h.Count<StartRank>(), 2);
  h.Finish(1, world);
  h.ForgetActions();
  h.Save(world[0], 2, 101);
  EXPECT_FALSE(h.Last<MakePlan>().first);
  EXPECT_EQ(h.Count<StartRank>(), 1) << "rank 0 is copied at once";
}

// A rank copied by a map that another registration made would be saved under wrong names.
TEST_F(SaveTest, ARegistrationThatChangedUnderThePlanFailsThatSaveAlone) {
  Begin(2);
  SaveOnAll(1, 100);
  h.Finish(1, world);
  h.Save(world[0], 2, 101);
  h.Feed(Registered{world[1], 2, "another layout"});
  h.Save(world[1], 2, 101);
  EXPECT_EQ(h.Told(world[0], 2).failure.reason, "PLAN_CHANGED");
  EXPECT_EQ(h.Told(world[0], 2).failure.rank, 1);
  SaveOnAll(3, 102);
  EXPECT_TRUE(h.Last<MakePlan>().first);
  h.Finish(3, world);
  EXPECT_EQ(h.Told(world[1], 3).state, SaveState::kCommitted);
}

TEST_F(SaveTest, APlanWithHolesFailsTheSaveAtItsStage) {
  Begin(1);
  h.hold_plans = true;
  h.Save(world[0], 1, 100);
  h.Feed(PlanMade{h.Last<MakePlan>().attempt, absl::FailedPreconditionError("holes in w")});
  EXPECT_EQ(h.Told(world[0], 1).failure.stage, "plan");
  EXPECT_EQ(h.Count<StartRank>(), 0);
}

// Late answers of an attempt that is over belong to nobody.
TEST_F(SaveTest, UnknownAndLateIdsAreIgnored) {
  Begin(1);
  h.Save(world[0], 1, 100);
  const std::string attempt = h.AttemptOf(1);
  h.Finish(1, world);
  h.ForgetActions();
  for (const std::string& name : {attempt, std::string("e9-a9-0000000000000000"), std::string("junk")}) {
    h.Feed(PlanMade{name, absl::OkStatus()});
    h.Feed(GroupCopied{name, 0, 0});
    h.Feed(RankCopied{name, -1});
    h.Feed(RankFlushed{name, 99});
    h.Feed(RankIoFailed{name, 0, "write", absl::AbortedError("late")});
    h.Feed(PartWritten{name, absl::AbortedError("late")});
    h.Feed(IoStopped{name});
  }
  h.Feed(StoreDone{999'999, {}});
  h.Feed(CatalogDone{999'999, absl::OkStatus()});
  h.Feed(VerdictSeen{42, 1, false});
  h.Feed(SessionDead{42});
  h.Feed(SessionLost{42});
  EXPECT_EQ(h.Count<Report>(), 0);
  EXPECT_EQ(h.Count<StopIo>(), 0);
}

}  // namespace
}  // namespace keepstep::daemon
