// What a job deletes of its own accord and on request, who may, and what a crash leaves.

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/logic/machine_harness.h"
#include "gtest/gtest.h"
#include "storage/attempt.h"
#include "storage/delete.h"

namespace keepstep::daemon {
namespace {

using storage::StoreOp;
using storage::StoreResult;

class CollectTest : public testing::Test {
 protected:
  void Begin(RetentionPolicy policy, int32_t ranks = 1, uint8_t nonce = 10) {
    h.retention = policy;
    h.Start();
    world = h.OpenWorld(ranks, nonce);
  }
  void Commit(int64_t step) {
    ++number;
    for (SessionId session : world) h.Save(session, number, step);
    h.Finish(number, world);
    ASSERT_EQ(h.Told(world[0], number).state, SaveState::kCommitted) << step;
    attempts[step] = h.AttemptOf(number);
  }
  // Steps that still have a committed attempt.
  std::vector<int64_t> Stored() {
    std::vector<int64_t> stored;
    for (const auto& [step, attempt] : attempts) {
      if (h.store().ReadPublished(*storage::BlobPath::Parse(storage::DecisionPath(step, attempt))).ok())
        stored.push_back(step);
    }
    return stored;
  }
  AnswerCollect Collect(CollectRequested request) {
    h.ForgetActions();
    request.ticket = ++ticket;
    h.Feed(request);
    EXPECT_EQ(h.Last<AnswerCollect>().ticket, ticket);
    return h.Last<AnswerCollect>();
  }
  static std::vector<std::string> Texts(const AnswerCollect& answer) {
    std::vector<std::string> texts;
    for (const RetentionDecision& decision : answer.decisions)
      texts.push_back(absl::StrCat(decision.step, decision.keep ? " kept: " : " deleted: ", decision.reason));
    return texts;
  }

  MachineHarness h;
  std::vector<SessionId> world;
  uint64_t number = 0, ticket = 0;
  std::map<int64_t, std::string> attempts;
};

using Steps = std::vector<int64_t>;

TEST_F(CollectTest, AfterEachCommitOnlyWhatThePolicyKeepsIsLeft) {
  Begin({.keep_last = 2, .keep_every = 300});
  for (int64_t step = 100; step <= 700; step += 100) Commit(step);
  EXPECT_EQ(Stored(), (Steps{300, 600, 700}));
  EXPECT_TRUE(h.store().List(*storage::BlobPath::Parse(storage::StepName(100)))->empty());
  const auto root = *h.store().List(storage::BlobPath::Root());
  EXPECT_EQ(root.size(), 4u) << "the directories of deleted steps go too";
  for (const RecordGone& gone : h.All<RecordGone>()) EXPECT_GT(gone.bytes, 0) << gone.why;
}

TEST_F(CollectTest, WithoutAPolicyEverythingStays) {
  Begin({});
  for (int64_t step = 100; step <= 300; step += 100) Commit(step);
  EXPECT_EQ(Stored(), (Steps{100, 200, 300}));
}

TEST_F(CollectTest, ADryRunSaysWhyAndDeletesNothing) {
  Begin({});
  for (int64_t step = 100; step <= 300; step += 100) Commit(step);
  ASSERT_TRUE(storage::PinStep(h.store(), 100, "alice", {}).ok());
  const AnswerCollect plan = Collect({.dry_run = true, .policy = RetentionPolicy{.keep_last = 1}});
  EXPECT_EQ(Texts(plan),
            (std::vector<std::string>{"100 kept: pinned by alice", "200 deleted: older than the newest",
                                      "300 kept: the newest"}));
  EXPECT_EQ(Stored(), (Steps{100, 200, 300}));
  const AnswerCollect done = Collect({.policy = RetentionPolicy{.keep_last = 1}});
  EXPECT_EQ(Texts(done), Texts(plan));
  EXPECT_GT(done.freed_bytes, 0);
  EXPECT_EQ(Stored(), (Steps{100, 300}));
  EXPECT_EQ(Collect({}).decisions.size(), 2u) << "the job's own policy still keeps everything";
}

// Ranks of one world that asked for different things would fight over what is deleted.
TEST_F(CollectTest, RanksAskForTheSame) {
  Begin({.keep_last = 2});
  h.retention = {.keep_last = 3};
  h.Start();
  world = {h.Open(0, 2, 1)};
  h.retention = {.keep_last = 2};
  h.Open(1, 2, 2);
  const AnswerOpen refused = h.Last<AnswerOpen>();
  EXPECT_EQ(refused.failure.reason, "RETENTION_DIFFERS");
  EXPECT_TRUE(absl::StrContains(refused.failure.message, "Rank 1 asks for keep_last=2"))
      << refused.failure.message;
  h.retention = {.keep_last = -2};
  h.Open(1, 2, 3);
  EXPECT_EQ(h.Last<AnswerOpen>().failure.reason, "BAD_RETENTION");
}

// The policy is that of the newest run; a restart remembers it.
TEST_F(CollectTest, ARestartRemembersThePolicyAndANewRunSetsItsOwn) {
  Begin({.keep_last = 2});
  Commit(100);
  h.Restart();
  EXPECT_EQ(h.Snapshot().retention, (RetentionPolicy{.keep_last = 2}));
  Begin({}, 1, 50);
  EXPECT_EQ(h.Snapshot().retention, RetentionPolicy{});
}

// A rank that starts late must get what its peers got.
TEST_F(CollectTest, WhatARankMayStillLoadStays) {
  Begin({.keep_last = 1});
  Commit(100);
  Begin({}, 2, 50);
  number = 0;
  h.Load(world[0], 7);  // rank 0 goes on from 100; rank 1 has not asked yet
  Commit(200);
  Commit(300);
  h.ForgetActions();
  Begin({.keep_last = 1}, 2, 80);
  number = 0;
  h.Load(world[0], 8);
  const AnswerCollect answer = Collect({.policy = RetentionPolicy{.keep_last = 1}});
  EXPECT_EQ(Stored(), (Steps{300}));
  EXPECT_EQ(Texts(answer).back(), "300 kept: the newest");
  // Named: rank 0 was given 300 by name; until rank 1 has asked, or all have saved, nothing of it may go.
  Commit(400);
  Commit(500);
  EXPECT_EQ(Stored(), (Steps{500}));
}

TEST_F(CollectTest, AStepThatOneRankLoadedByNameWaitsForTheOthers) {
  Begin({}, 1);
  Commit(100);
  Commit(200);
  Begin({}, 2, 50);
  h.LoadStep(world[0], 7, 100);
  ASSERT_TRUE(h.Last<AnswerLoad>().found);
  const AnswerCollect answer = Collect({.policy = RetentionPolicy{.keep_last = 1}});
  EXPECT_EQ(Texts(answer), (std::vector<std::string>{"100 kept: a rank of this run may still load it",
                                                     "200 kept: the newest"}));
}

// A reader of this daemon holds the attempt: the driver refuses to reserve it.
TEST_F(CollectTest, WhatIsBeingReadStays) {
  Begin({.keep_last = 1});
  h.catalog_fault = [](const Action& action) {
    return std::holds_alternative<ReserveAttempt>(action) ? absl::FailedPreconditionError("read")
                                                          : absl::OkStatus();
  };
  Commit(100);
  Commit(200);
  EXPECT_EQ(Stored(), (Steps{100, 200}));
  h.catalog_fault = nullptr;
  Commit(300);
  EXPECT_EQ(Stored(), (Steps{300}));
}

// A pin that comes between plan and deletion wins.
TEST_F(CollectTest, APinAtTheLastMomentKeeps) {
  Begin({.keep_last = 1});
  Commit(100);
  bool pinned = false;
  h.intercept = [&](const StoreOp& op) -> std::optional<StoreResult> {
    if (op.kind == StoreOp::Kind::kPublish && absl::EndsWith(op.path, "/DELETING") && !pinned) {
      pinned = storage::PinStep(h.store(), 100, "late", {}).ok();
    }
    return std::nullopt;
  };
  Commit(200);
  EXPECT_TRUE(pinned);
  EXPECT_EQ(Stored(), (Steps{100, 200}));
  EXPECT_EQ(h.Files(100, attempts[100]).size(), 3u) << "DELETING is withdrawn";
}

class CollectCrashTest : public CollectTest, public testing::WithParamInterface<int> {};

// Killed after any operation, the next start finishes: nothing half deleted, nothing lost.
TEST_P(CollectCrashTest, IsFinishedByTheNextStart) {
  Begin({.keep_last = 1});
  Commit(100);
  int left = GetParam();
  bool dead = false;
  h.intercept = [&](const StoreOp& op) -> std::optional<StoreResult> {
    const bool deletes = op.kind == StoreOp::Kind::kDelete || absl::EndsWith(op.path, "/DELETING");
    dead = dead || (deletes && left-- == 0);
    if (dead) return StoreResult{.status = absl::UnavailableError("dead")};
    return std::nullopt;
  };
  Commit(200);
  EXPECT_TRUE(dead) << "a deletion has more steps than this test cuts";
  h.intercept = nullptr;
  h.Restart();
  EXPECT_EQ(Stored(), (Steps{200}));
  EXPECT_TRUE(h.store().List(*storage::BlobPath::Parse(storage::StepName(100)))->empty());
}

// DELETING, the part, a blob, DECISION, DELETING again, three directories.
INSTANTIATE_TEST_SUITE_P(EveryStep, CollectCrashTest, testing::Range(0, 8));

// What a resumed rank is told of a save does not change because its checkpoint is gone.
TEST_F(CollectTest, ACollectedSaveStaysCommittedForItsRanks) {
  Begin({.keep_last = 1});
  Commit(100);
  Commit(200);
  Commit(300);
  h.Restart();
  h.ForgetActions();
  h.Open(0, 1, 10, 1, 3);
  const AnswerOpen answer = h.Last<AnswerOpen>();
  ASSERT_EQ(answer.unsettled.size(), 3u);
  for (const Verdict& verdict : answer.unsettled)
    EXPECT_EQ(verdict.state, SaveState::kCommitted) << verdict.number;
}

// Of two daemons that know the job only the one whose run claimed the newest epoch deletes.
TEST_F(CollectTest, AnotherDaemonsJobIsNotTouchedUnlessTakenOver) {
  Begin({.keep_last = 3});
  Commit(100);
  Commit(200);
  h.roster_known = false;
  h.Restart();
  const CollectRequested request{.policy = RetentionPolicy{.keep_last = 1}};
  EXPECT_EQ(Collect(request).failure.reason, "NOT_COORDINATOR");
  EXPECT_EQ(Stored(), (Steps{100, 200}));
  CollectRequested take_over = request;
  take_over.take_over = true;
  take_over.nonce = NonceOf(99);
  const AnswerCollect answer = Collect(take_over);
  EXPECT_EQ(answer.failure.reason, "");
  EXPECT_EQ(Stored(), (Steps{200}));
  EXPECT_EQ(h.Snapshot().epoch, 2);
}

TEST_F(CollectTest, AnEpochThatAnotherDaemonClaimedStopsIt) {
  Begin({.keep_last = 1});
  Commit(100);
  v1::Claim claim;
  ASSERT_TRUE(h.store().PublishExclusive(*storage::BlobPath::Parse("epochs/2/CLAIM"), "x").ok());
  Commit(200);
  EXPECT_EQ(Stored(), (Steps{100, 200}));
  EXPECT_EQ(Collect({}).failure.reason, "NOT_COORDINATOR");
}

// What a claim leaves that could not be written: the next one may find room, and claim an earlier number.
TEST_F(CollectTest, AnEpochThatNobodyClaimedStopsNothing) {
  Begin({.keep_last = 1});
  Commit(100);
  ASSERT_TRUE(h.store().PublishExclusive(*storage::BlobPath::Parse("epochs/2/.tmp-1"), "x").ok());
  ASSERT_TRUE(h.store().PublishExclusive(*storage::BlobPath::Parse("epochs/7/.tmp-2"), "x").ok());
  Commit(200);
  EXPECT_EQ(Stored(), Steps{200});
}

// A new run must not find the job while a deletion goes on.
TEST_F(CollectTest, AClaimWaitsForTheDeletionUnderWayAndStopsTheRest) {
  Begin({});
  for (int64_t step = 100; step <= 400; step += 100) Commit(step);
  h.retention = {.keep_last = 1};
  h.ForgetActions();
  bool opened = false;
  h.intercept = [&](const StoreOp& op) -> std::optional<StoreResult> {
    if (op.kind == StoreOp::Kind::kPublish && absl::EndsWith(op.path, "/DELETING") && !opened) {
      opened = true;
      h.Open(0, 1, 77);
    }
    return std::nullopt;
  };
  h.Feed(CollectRequested{.ticket = 1, .policy = RetentionPolicy{.keep_last = 1}});
  EXPECT_EQ(h.Last<AnswerCollect>().failure.reason, "STALE_EPOCH");
  EXPECT_EQ(Stored(), (Steps{200, 300, 400}));
  const int gone = h.Position([](const Action& a) { return std::holds_alternative<RecordGone>(a); });
  const int claim = h.Position([](const Action& a) {
    const auto* store = std::get_if<DoStore>(&a);
    return store && store->what.kind == StoreOp::Kind::kPublish && absl::EndsWith(store->what.path, "/CLAIM");
  });
  EXPECT_LT(-1, gone);
  EXPECT_LT(gone, claim);
  EXPECT_EQ(h.Snapshot().epoch, 2);
}

TEST_F(CollectTest, WhatAnAbortedAttemptLeftIsReclaimed) {
  Begin({.keep_last = 1});
  h.intercept = [&](const StoreOp& op) -> std::optional<StoreResult> {
    if (op.kind == StoreOp::Kind::kDelete) return StoreResult{.status = absl::PermissionDeniedError("no")};
    return std::nullopt;
  };
  h.Save(world[0], ++number, 100);
  h.Feed(RankIoFailed{h.AttemptOf(number), 0, "write", absl::AbortedError("EIO")});
  ASSERT_EQ(h.Told(world[0], number).state, SaveState::kFailed);
  const std::string aborted = h.AttemptOf(number);
  ASSERT_GT(h.Files(100, aborted).size(), 1u);
  h.intercept = nullptr;
  h.journal.clear();
  h.Restart();
  EXPECT_EQ(h.Files(100, aborted), (std::vector<std::string>{"DECISION"}));
}

// Storage failed in the midst of `keepstep rm`: what is no checkpoint any more does not wait for a restart to
// give its space back.
TEST_F(CollectTest, ADeletionThatFailedOnItsWayIsFinished) {
  Begin({});
  Commit(100);
  Commit(200);
  ASSERT_TRUE(h.store()
                  .PublishExclusive(*storage::BlobPath::Parse(storage::DeletingPath(100, attempts[100])), "")
                  .ok());
  int failures = 2;
  h.intercept = [&](const StoreOp& op) -> std::optional<StoreResult> {
    if (op.kind == StoreOp::Kind::kDelete && failures-- > 0)
      return StoreResult{.status = absl::AbortedError("EIO")};
    return std::nullopt;
  };
  h.Feed(DeletionCut{});
  h.Advance(2 * Limits().retry_most_ms);
  EXPECT_LT(failures, 0);
  EXPECT_TRUE(h.Files(100, attempts[100]).empty());
  EXPECT_EQ(Stored(), (Steps{200}));
}

// A plan without room is made again after a collection that freed some, once.
TEST_F(CollectTest, MakesRoomForASaveWhoseDeletionsAreDueAnyway) {
  Begin({.keep_last = 1});
  Commit(100);
  h.catalog_fault = [](const Action& action) {
    return std::holds_alternative<ReserveAttempt>(action) ? absl::FailedPreconditionError("read")
                                                          : absl::OkStatus();
  };
  Commit(200);  // 100 is being read meanwhile
  h.catalog_fault = nullptr;
  ASSERT_EQ(Stored(), (Steps{100, 200}));
  absl::Status full = absl::ResourceExhaustedError("full");
  full.SetPayload(kReasonPayload, absl::Cord("DISK_FULL"));
  h.hold_plans = true;
  h.ForgetActions();
  h.Save(world[0], ++number, 300);
  const std::string attempt = h.Last<MakePlan>().attempt;
  h.Feed(PlanMade{attempt, full});
  EXPECT_EQ(Stored(), (Steps{200}));
  EXPECT_EQ(h.Count<MakePlan>(), 2);
  h.Feed(PlanMade{attempt, full});
  EXPECT_EQ(h.Told(world[0], number).failure.reason, "DISK_FULL");
  EXPECT_EQ(h.Count<MakePlan>(), 2);
}

}  // namespace
}  // namespace keepstep::daemon
