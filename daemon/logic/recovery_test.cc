// A daemon that comes back: what its journal, its roster and storage say, and whom it answers when.

#include <limits>

#include "absl/strings/match.h"
#include "daemon/logic/world_test.h"
#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

using storage::StoreOp;
using storage::StoreResult;

class RecoveryTest : public WorldTest {
 protected:
  void Commit(uint64_t number, int64_t step) {
    for (SessionId session : world) h.Save(session, number, step);
    h.Finish(number, world);
    ASSERT_EQ(h.Told(world[0], number).state, SaveState::kCommitted);
  }
};

// A trainer that lost its daemon must learn what became of every save it issued.
TEST_F(RecoveryTest, ARestartAccountsForEverySaveThatASessionIssued) {
  Begin(1);
  Commit(1, 100);
  h.Save(world[0], 2, 101);
  h.Copied(2, 0);
  const std::string cut_off = h.AttemptOf(2);
  h.Restart();
  EXPECT_EQ(h.Files(101, cut_off), std::vector<std::string>{"DECISION"})
      << "its space is back before anybody joins";
  h.Open(0, 1, 10, 1, 3);
  const std::vector<Verdict> unsettled = h.Last<AnswerOpen>().unsettled;
  ASSERT_EQ(unsettled.size(), 3u);
  EXPECT_EQ(unsettled[0].state, SaveState::kCommitted);
  EXPECT_EQ(unsettled[0].step, 100);
  EXPECT_EQ(unsettled[1].state, SaveState::kFailed);
  EXPECT_EQ(unsettled[1].failure.reason, "LOST_BY_RESTART");
  EXPECT_EQ(unsettled[2].failure.reason, "LOST_BY_RESTART") << "its request never arrived";
}

// A client's word for what it has issued must not keep the daemon counting.
TEST_F(RecoveryTest, AClientThatClaimsEveryNumberThereIsIsAnswered) {
  Begin(1);
  Commit(1, 100);
  h.Restart();
  h.Open(0, 1, 10, 1, std::numeric_limits<uint64_t>::max());
  const std::vector<Verdict> unsettled = h.Last<AnswerOpen>().unsettled;
  ASSERT_EQ(unsettled.size(), static_cast<size_t>(Limits().verdict_history));
  EXPECT_EQ(unsettled.back().number, std::numeric_limits<uint64_t>::max());
}

// All parts were durable: the seal survived the daemon, so the save does.
TEST_F(RecoveryTest, ARestartCommitsASaveWhosePartIsDurable) {
  Begin(1);
  h.Save(world[0], 1, 100);
  h.intercept = [](const StoreOp& op) -> std::optional<StoreResult> {
    if (op.kind == StoreOp::Kind::kPublish && absl::EndsWith(op.path, "DECISION")) {
      return StoreResult{.status = absl::UnavailableError("the daemon dies here")};
    }
    return std::nullopt;
  };
  h.Finish(1, world);
  h.intercept = nullptr;
  h.Restart();
  h.Open(0, 1, 10, 1, 1);
  EXPECT_EQ(h.Last<AnswerOpen>().unsettled.at(0).state, SaveState::kCommitted);
  EXPECT_EQ(h.catalog.size(), 1u);
}

// Rank 0 was told that save 2 is lost; rank 1, which asks for it later, must hear the same.
TEST_F(RecoveryTest, ASaveLostToOneRankIsLostToAll) {
  Begin(2);
  Commit(1, 100);
  h.Restart();
  h.Open(0, 2, 10, 1, 2);
  const SessionId second = h.Open(1, 2, 11, 1, 1);
  h.Feed(Registered{second, 1, "layout"});
  h.Save(second, 2, 101);
  EXPECT_EQ(h.Told(second, 2).failure.reason, "LOST_BY_RESTART");
}

TEST_F(RecoveryTest, NobodyIsAnsweredBeforeTheJournalIsSettled) {
  Begin(1);
  h.Save(world[0], 1, 100);
  h.ForgetActions();
  h.intercept = [](const StoreOp&) -> std::optional<StoreResult> {
    return StoreResult{.status = absl::UnavailableError("down")};
  };
  h.Restart();
  h.Open(0, 1, 10, 1, 1);
  EXPECT_EQ(h.Count<AnswerOpen>(), 0);
  EXPECT_TRUE(h.Snapshot().recovering);
  h.intercept = nullptr;
  h.Advance(Limits().retry_most_ms);
  EXPECT_EQ(h.Count<AnswerOpen>(), 1);
  EXPECT_TRUE(h.journal.empty());
}

TEST_F(RecoveryTest, AnOpenIsRefusedWhenRecoveryTakesTooLong) {
  h.intercept = [](const StoreOp&) -> std::optional<StoreResult> {
    return StoreResult{.status = absl::UnavailableError("down")};
  };
  h.Start();
  h.Open(0, 1, 10);
  h.Advance(Limits().recover_ms + kTickMs);
  EXPECT_EQ(h.Last<AnswerOpen>().failure.reason, "RECOVERING");
}

// With the roster lost, every rank counts as present: whoever joins starts a new world.
TEST_F(RecoveryTest, ALostRosterMakesEveryJoinAClaimAndLetsTheCurrentEpochResume) {
  Begin(2);
  Commit(1, 100);
  h.roster_known = false;
  h.journal.clear();
  h.Restart();
  h.Open(0, 2, 10, 1, 1);
  EXPECT_EQ(h.Last<AnswerOpen>().failure.code, absl::StatusCode::kOk);
  h.Open(1, 2, 99);
  EXPECT_EQ(h.Snapshot().epoch, 2);
}

TEST_F(RecoveryTest, ARosterThatCannotBeKeptLetsNobodyIn) {
  Begin(1);
  h.catalog_fault = [](const Action&) { return absl::UnavailableError("catalog"); };
  MachineHarness other;
  other.Start();
  other.Open(0, 2, 1);
  other.catalog_fault = h.catalog_fault;
  other.Open(1, 2, 2);
  EXPECT_EQ(other.Last<AnswerOpen>().failure.code, absl::StatusCode::kUnavailable);
  other.catalog_fault = nullptr;
  other.Open(1, 2, 2);
  EXPECT_EQ(other.Last<AnswerOpen>().failure.code, absl::StatusCode::kOk);
}

}  // namespace
}  // namespace keepstep::daemon
