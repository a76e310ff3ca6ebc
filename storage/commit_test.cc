#include "storage/commit.h"

#include <functional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "storage/attempt.h"
#include "storage/checkpoint_reader.h"
#include "storage/faulty_store.h"
#include "storage/memory_store.h"
#include "storage/record.h"
#include "storage/test_parts.h"

namespace keepstep::storage {
namespace {

using Kind = CommitOutcome::Kind;
using Want = CommitMachine::Want;

const AttemptId kId = {1, 2, 3};

TestCheckpoint Sample() { return MakeTestCheckpoint(7, kId, 2); }

CommitMachine Machine(Want want) {
  const TestCheckpoint sample = Sample();
  return CommitMachine(want, sample.intent(),
                       want == Want::kCommit ? sample.part_names : std::vector<std::string>());
}

BlobPath Path(const std::string& leaf) {
  return *BlobPath::Parse(AttemptDir(7, AttemptName(kId)) + "/" + leaf);
}

enum class Fault { kBefore, kAfter, kKill };

// Drives `machine`; the n-th operation (from 1) fails before or after it took effect, or never returns
// (kUndecided). Nothing may be deleted unless a durable ABORT is in the slot.
CommitOutcome DriveWithFault(BlobStore& store, CommitMachine machine, int n, absl::Status status, Fault fault,
                             int* count = nullptr) {
  StoreResult result;
  int operations = 0;
  auto next = machine.Next(nullptr);
  while (const StoreOp* op = std::get_if<StoreOp>(&next)) {
    if (op->kind == StoreOp::Kind::kDelete || op->kind == StoreOp::Kind::kDeleteTree) {
      absl::StatusOr<v1::Decision> decision = ReadDecision(store, 7, kId);
      EXPECT_TRUE(decision.ok() && decision->kind() == v1::Decision::ABORT)
          << "deleted " << op->path << " before ABORT";
    }
    const bool hit = ++operations == n;
    result = hit && fault != Fault::kAfter ? StoreResult() : RunStoreOp(store, *op);
    if (hit && fault == Fault::kKill) return CommitOutcome();
    if (hit) result.status = status;
    next = machine.Next(&result);
  }
  if (count != nullptr) *count = operations;
  return std::get<CommitOutcome>(next);
}

bool Whole(BlobStore& store) {
  const TestCheckpoint sample = Sample();
  for (size_t i = 0; i < sample.blobs.size(); ++i) {
    absl::StatusOr<std::string> blob = ReadBlob(store, Path(sample.parts[i].blobs(0).name()));
    if (!blob.ok() || *blob != sample.blobs[i]) return false;
  }
  return LoadManifest(store, 7, kId).ok();
}

TEST(Commit, PublishesTheIntentWithEveryPart) {
  MemoryStore store;
  WriteTestCheckpoint(store, Sample());
  const CommitOutcome outcome = Decide(store, Machine(Want::kCommit));
  ASSERT_EQ(outcome.kind, Kind::kCommitted) << outcome.status;
  EXPECT_EQ(outcome.decision.parts_size(), 2);
  EXPECT_EQ(outcome.decision.metrics().at("loss"), 0.5);
  EXPECT_TRUE(Whole(store));
}

// Whatever fails and wherever the daemon dies: what was reported stays true, every attempt can be decided
// afterwards, and a commit has all of its bytes.
TEST(Commit, EveryFaultAtEveryOperation) {
  int cases = 0;
  for (Want want : {Want::kCommit, Want::kAbort, Want::kSettle}) {
    for (absl::StatusCode code :
         {absl::StatusCode::kUnavailable, absl::StatusCode::kAborted, absl::StatusCode::kResourceExhausted,
          absl::StatusCode::kDeadlineExceeded, absl::StatusCode::kPermissionDenied,
          absl::StatusCode::kDataLoss, absl::StatusCode::kUnknown, absl::StatusCode::kAlreadyExists,
          absl::StatusCode::kNotFound}) {
      for (Fault fault : {Fault::kBefore, Fault::kAfter, Fault::kKill}) {
        for (int n = 1, count = n; n <= count; ++n) {
          SCOPED_TRACE(testing::Message() << "want " << int(want) << " code " << int(code) << " fault "
                                          << int(fault) << " n " << n);
          MemoryStore store;
          WriteTestCheckpoint(store, Sample());
          const CommitOutcome first =
              DriveWithFault(store, Machine(want), n, absl::Status(code, "injected"), fault, &count);
          if (fault == Fault::kKill) count = 8;
          const CommitOutcome last = DriveWithFault(store, Machine(Want::kSettle), 0, {}, Fault::kBefore);
          ASSERT_TRUE(last.kind == Kind::kCommitted || last.kind == Kind::kAborted) << last.status;
          const bool reported = first.kind == Kind::kCommitted || first.kind == Kind::kAborted;
          EXPECT_TRUE(!reported || first.kind == last.kind);
          EXPECT_EQ(Whole(store), last.kind == Kind::kCommitted);
          EXPECT_TRUE(last.kind == Kind::kCommitted || store.List(Path(kDecisionName).Parent())->size() == 1)
              << "space is back";
          ++cases;
        }
      }
    }
  }
  std::printf("%d faults, 0 lost\n", cases);
  EXPECT_GT(cases, 300);
}

// A disk that fails from some operation on, while parts are published and the attempt is decided; later it works again.
TEST(Commit, ADiskThatFailsFromThenOn) {
  int cases = 0;
  for (const absl::Status& error : {absl::ResourceExhaustedError("ENOSPC"), absl::AbortedError("EIO"),
                                    absl::UnavailableError("ESTALE"), absl::PermissionDeniedError("EROFS")}) {
    for (FaultTime time : {FaultTime::kBefore, FaultTime::kAfter}) {
      bool clean = false;
      for (int64_t n = 1; !clean; ++n) {
        ASSERT_LT(n, 100);
        MemoryStore disk;
        FaultyStore store(&disk);
        const TestCheckpoint sample = Sample();
        WriteTestBlobs(disk, sample);
        store.plan().FailFrom(FaultOp::kAny, n, error, time);
        clean = true;
        for (const v1::Part& part : sample.parts) clean = clean && PublishPart(store, sample.step, part).ok();
        const CommitOutcome first = Decide(store, Machine(clean ? Want::kCommit : Want::kAbort));
        clean = clean && first.kind == Kind::kCommitted && first.status.ok();
        store.plan().Clear();
        const CommitOutcome last = Decide(store, Machine(Want::kSettle));
        ASSERT_TRUE(last.kind == Kind::kCommitted || last.kind == Kind::kAborted) << last.status;
        EXPECT_TRUE(first.kind != Kind::kCommitted || last.kind == Kind::kCommitted) << n;
        EXPECT_TRUE(first.kind != Kind::kAborted || last.kind == Kind::kAborted) << n;
        EXPECT_EQ(Whole(disk), last.kind == Kind::kCommitted) << n;
        ++cases;
      }
    }
  }
  EXPECT_GT(cases, 50);
}

// Two daemons decide at once, switching at every point: one outcome, seen by both.
TEST(Commit, RacersAgree) {
  for (Want a_want : {Want::kCommit, Want::kAbort, Want::kSettle}) {
    for (Want b_want : {Want::kCommit, Want::kAbort, Want::kSettle}) {
      for (int turn = 0; turn < 12; ++turn) {
        MemoryStore store;
        WriteTestCheckpoint(store, Sample());
        CommitMachine a = Machine(a_want);
        StoreResult result;
        auto next = a.Next(nullptr);
        for (int i = 0; i < turn && std::holds_alternative<StoreOp>(next); ++i) {
          result = RunStoreOp(store, std::get<StoreOp>(next));
          next = a.Next(&result);
        }
        const CommitOutcome b = Decide(store, Machine(b_want));
        while (const StoreOp* op = std::get_if<StoreOp>(&next)) {
          result = RunStoreOp(store, *op);
          next = a.Next(&result);
        }
        const CommitOutcome& first = std::get<CommitOutcome>(next);
        // A committer whose parts were reclaimed under it learns that it cannot commit, and nothing else.
        const bool agree = first.kind == b.kind ||
                           (first.kind == Kind::kUndecided && b.kind == Kind::kAborted) ||
                           (first.kind == Kind::kAborted && b.kind == Kind::kUndecided);
        EXPECT_TRUE(agree) << int(a_want) << int(b_want) << turn;
        EXPECT_EQ(Whole(store), first.kind == Kind::kCommitted);
      }
    }
  }
}

int PublishIndex(Want want) {
  MemoryStore store;
  WriteTestCheckpoint(store, Sample());
  CommitMachine machine = Machine(want);
  auto next = machine.Next(nullptr);
  for (int n = 1;; ++n) {
    const StoreOp& op = std::get<StoreOp>(next);
    if (op.kind == StoreOp::Kind::kPublish) return n;
    const StoreResult result = RunStoreOp(store, op);
    next = machine.Next(&result);
  }
}

TEST(Commit, ALostReplyIsACommit) {
  MemoryStore store;
  WriteTestCheckpoint(store, Sample());
  const CommitOutcome outcome = DriveWithFault(store, Machine(Want::kCommit), PublishIndex(Want::kCommit),
                                               absl::UnavailableError("reset"), Fault::kAfter);
  EXPECT_EQ(outcome.kind, Kind::kCommitted) << outcome.status;
}

// A directory whose flush failed may look flushed at the next try and lose the name all the same.
TEST(Commit, AFailedFlushAfterThePublishIsUncertain) {
  for (Want want : {Want::kCommit, Want::kAbort, Want::kSettle}) {
    for (const absl::Status& error :
         {absl::AbortedError("fsync: EIO"), absl::ResourceExhaustedError("fsync: ENOSPC")}) {
      MemoryStore store;
      WriteTestCheckpoint(store, Sample());
      const CommitOutcome outcome =
          DriveWithFault(store, Machine(want), PublishIndex(want), error, Fault::kAfter);
      EXPECT_EQ(outcome.kind, Kind::kUncertain);
      EXPECT_EQ(outcome.reason, "DURABILITY_UNCERTAIN");
      EXPECT_TRUE(ReadBlob(store, Path(Sample().parts[1].blobs(0).name())).ok())
          << "an uncertain ABORT deletes nothing";
    }
  }
}

// Our own flush may have failed, but what another one decided is durable.
TEST(Commit, AnotherDecisionIsBelievedAfterOurFlushFailed) {
  MemoryStore store;
  WriteTestCheckpoint(store, Sample());
  CommitMachine machine = Machine(Want::kCommit);
  auto next = machine.Next(nullptr);
  StoreResult result;
  while (std::get<StoreOp>(next).kind != StoreOp::Kind::kPublish) {
    result = RunStoreOp(store, std::get<StoreOp>(next));
    next = machine.Next(&result);
  }
  v1::Decision abort = Sample().intent();
  abort.set_kind(v1::Decision::ABORT);
  ASSERT_TRUE(store.PublishExclusive(Path(kDecisionName), EncodeDecision(abort)).ok());
  result = StoreResult();
  result.status = absl::ResourceExhaustedError("temporary file: ENOSPC");
  next = machine.Next(&result);
  while (const StoreOp* op = std::get_if<StoreOp>(&next)) {
    result = RunStoreOp(store, *op);
    next = machine.Next(&result);
  }
  EXPECT_EQ(std::get<CommitOutcome>(next).kind, Kind::kAborted);
}

TEST(Commit, AFlushThatFailedBeforeThePublishCommitsNothing) {
  MemoryStore store;
  WriteTestCheckpoint(store, Sample());
  const CommitOutcome outcome =
      DriveWithFault(store, Machine(Want::kCommit), 1, absl::AbortedError("fsync: EIO"), Fault::kAfter);
  EXPECT_EQ(outcome.kind, Kind::kUndecided);
  EXPECT_FALSE(ReadBlob(store, Path(kDecisionName)).ok());
}

void Replace(MemoryStore& store, const BlobPath& path, absl::string_view bytes) {
  ASSERT_TRUE(store.Delete(path).ok());
  ASSERT_TRUE(store.PublishExclusive(path, bytes).ok());
}

// A restart meets what a power loss left: it commits only the whole.
TEST(Settle, DamageOrAbsenceOfAnythingAborts) {
  const TestCheckpoint sample = Sample();
  const std::string part = EncodePart(sample.parts[1]);
  const std::vector<std::function<void(MemoryStore&)>> harms = {
      [](MemoryStore& s) { ASSERT_TRUE(s.Delete(Path("part-0.pb")).ok()); },
      [](MemoryStore& s) { ASSERT_TRUE(s.Delete(Path("part-1.pb")).ok()); },
      [&](MemoryStore& s) { ASSERT_TRUE(s.Delete(Path(sample.parts[1].blobs(0).name())).ok()); },
      [&](MemoryStore& s) { Replace(s, Path(sample.parts[1].blobs(0).name()), "short"); },
      [&](MemoryStore& s) { Replace(s, Path("part-1.pb"), part.substr(0, part.size() - 1)); },
      [&](MemoryStore& s) {
        Replace(s, Path("part-1.pb"), EncodePart(MakeTestCheckpoint(7, kId, 3).parts[1]));
      },
      [&](MemoryStore& s) {
        Replace(s, Path("part-1.pb"), EncodePart(MakeTestCheckpoint(7, {1, 2, 4}, 2).parts[1]));
      },
      [&](MemoryStore& s) {
        Replace(s, Path("part-0.pb"), EncodePart(MakeTestCheckpoint(8, kId, 2).parts[0]));
      },
      [&](MemoryStore& s) { Replace(s, Path("part-1.pb"), EncodePart(sample.parts[0])); },
  };
  for (size_t i = 0; i < harms.size(); ++i) {
    MemoryStore store;
    WriteTestCheckpoint(store, sample);
    harms[i](store);
    const CommitOutcome commit = Decide(store, Machine(Want::kCommit));
    EXPECT_EQ(commit.kind, Kind::kUndecided) << i;
    EXPECT_EQ(commit.reason, "PART_INVALID") << i;
    const CommitOutcome settled = Decide(store, Machine(Want::kSettle));
    EXPECT_EQ(settled.kind, Kind::kAborted) << i;
    EXPECT_FALSE(settled.decision.message().empty());
    EXPECT_EQ(Decide(store, Machine(Want::kCommit)).kind, Kind::kUndecided) << "nothing is left to commit";
    EXPECT_EQ(ReadDecision(store, 7, kId)->kind(), v1::Decision::ABORT) << "ABORT records stay";
  }
}

TEST(Settle, NothingWrittenAborts) {
  MemoryStore store;
  EXPECT_EQ(Decide(store, Machine(Want::kSettle)).kind, Kind::kAborted);
}

// An outage is not evidence that a save is incomplete.
TEST(Settle, AStoreThatDoesNotAnswerSettlesNothing) {
  MemoryStore store;
  WriteTestCheckpoint(store, Sample());
  CommitMachine machine = Machine(Want::kSettle);
  StoreResult down;
  down.status = absl::UnavailableError("down");
  auto next = machine.Next(nullptr);
  int operations = 0;
  while (std::holds_alternative<StoreOp>(next)) {
    ASSERT_LT(++operations, 100) << "retries are bounded";
    next = machine.Next(&down);
  }
  EXPECT_EQ(std::get<CommitOutcome>(next).kind, Kind::kUndecided);
  EXPECT_EQ(Decide(store, Machine(Want::kSettle)).kind, Kind::kCommitted);
}

TEST(Settle, ADamagedDecisionIsNeverOverruled) {
  MemoryStore store;
  CommitTestCheckpoint(store, Sample());
  Replace(store, Path(kDecisionName), "junk");
  for (Want want : {Want::kCommit, Want::kAbort, Want::kSettle}) {
    const CommitOutcome outcome = Decide(store, Machine(want));
    EXPECT_EQ(outcome.kind, Kind::kUncertain);
    EXPECT_EQ(outcome.reason, "DECISION_DAMAGED");
  }
  EXPECT_TRUE(ReadBlob(store, Path("part-0.pb")).ok());
}

TEST(Abort, GivesTheSpaceBack) {
  MemoryStore store;
  WriteTestCheckpoint(store, Sample());
  ASSERT_TRUE(PutBlob(store, Path("junk/deep"), "x").ok());
  EXPECT_EQ(Decide(store, Machine(Want::kAbort)).kind, Kind::kAborted);
  absl::StatusOr<std::vector<BlobInfo>> left = store.List(Path(kDecisionName).Parent());
  ASSERT_EQ(left->size(), 1u);
  EXPECT_EQ((*left)[0].path.Leaf(), kDecisionName);
}

TEST(PublishPart, TheSamePartTwiceIsOne) {
  MemoryStore store;
  const TestCheckpoint sample = Sample();
  EXPECT_TRUE(PublishPart(store, 7, sample.parts[0]).ok());
  EXPECT_TRUE(PublishPart(store, 7, sample.parts[0]).ok());
  v1::Part other = sample.parts[0];
  other.mutable_intent()->set_time_unix_ms(1);
  EXPECT_EQ(PublishPart(store, 7, other).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST(PublishPart, NothingIsPublishedThatReadersWouldRefuse) {
  MemoryStore store;
  v1::Part part = Sample().parts[0];
  part.mutable_extents(0)->set_offset_bytes(int64_t{1} << 40);
  EXPECT_EQ(PublishPart(store, 7, part).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(store.List(Path(kDecisionName).Parent())->empty());
}

// What was published here is known by its digest; anything else that is read back is judged.
TEST(Commit, KnownPartsMakeTheSameDecisionAndHideNoDamage) {
  const TestCheckpoint sample = Sample();
  MemoryStore store, judged, damaged;
  for (MemoryStore* one : {&store, &judged, &damaged}) WriteTestCheckpoint(*one, sample);
  std::vector<PartSummary> written;
  for (const v1::Part& part : sample.parts) written.push_back(*PublishPart(store, sample.step, part));
  const auto commit = [&](MemoryStore& in, std::vector<PartSummary> known) {
    return Decide(in, CommitMachine(Want::kCommit, sample.intent(), sample.part_names, std::move(known)));
  };
  const CommitOutcome known = commit(store, written), unknown = commit(judged, {});
  ASSERT_EQ(known.kind, Kind::kCommitted) << known.status;
  EXPECT_EQ(EncodeDecision(known.decision), EncodeDecision(unknown.decision));
  Replace(damaged, Path("part-0.pb"), "junk");
  EXPECT_EQ(commit(damaged, written).reason, "PART_INVALID");
}

}  // namespace
}  // namespace keepstep::storage
