#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "storage/attempt.h"
#include "storage/checkpoint_reader.h"
#include "storage/commit.h"
#include "storage/delete.h"
#include "storage/faulty_store.h"
#include "storage/memory_store.h"
#include "storage/record.h"
#include "storage/test_parts.h"

namespace keepstep::storage {
namespace {

BlobPath Path(const std::string& text) { return *BlobPath::Parse(text); }

void Commit(MemoryStore& store, int64_t step, AttemptId id) {
  CommitTestCheckpoint(store, MakeTestCheckpoint(step, id, 2));
}

void Abort(MemoryStore& store, int64_t step, AttemptId id) {
  const TestCheckpoint checkpoint = MakeTestCheckpoint(step, id, 2);
  WriteTestCheckpoint(store, checkpoint);
  ASSERT_EQ(Decide(store, CommitMachine(CommitMachine::Want::kAbort, checkpoint.intent(), {})).kind,
            CommitOutcome::Kind::kAborted);
}

void Claim(MemoryStore& store, int64_t epoch) {
  ASSERT_TRUE(store.PublishExclusive(Path(ClaimPath(epoch)), EncodeClaim(v1::Claim())).ok());
}

void SetParent(MemoryStore& store, int64_t epoch, int64_t step, AttemptId id) {
  v1::EpochStep parent;
  parent.set_step(step);
  parent.set_attempt(AttemptName(id));
  ASSERT_TRUE(store.PublishExclusive(Path(ParentPath(epoch)), EncodeEpochStep(parent)).ok());
}

int64_t LatestStep(MemoryStore& store) {
  absl::StatusOr<std::optional<v1::Decision>> latest = ResolveLatest(store);
  EXPECT_TRUE(latest.ok()) << latest.status();
  if (!latest.ok() || !latest->has_value()) return -1;
  return (*latest)->step();
}

void Spoil(MemoryStore& store, const BlobPath& path) {
  ASSERT_TRUE(store.Delete(path).ok());
  ASSERT_TRUE(store.PublishExclusive(path, "junk").ok());
}

// The loader never picks what was not committed, however new it looks.
TEST(Reader, OnlyCommitsCount) {
  MemoryStore store;
  EXPECT_EQ(LatestStep(store), -1);
  Commit(store, 100, {1, 1, 1});
  WriteTestCheckpoint(store, MakeTestCheckpoint(200, {1, 2, 2}, 2));  // undecided
  Abort(store, 300, {1, 3, 3});
  ASSERT_TRUE(PutBlob(store, Path("400/DECISION"), "junk").ok());
  ASSERT_TRUE(PutBlob(store, Path("000000000500/e1-a1-xyz/DECISION"), "junk").ok());
  ASSERT_TRUE(PutBlob(store, Path("000000000600"), "a file").ok());
  EXPECT_EQ(LatestStep(store), 100);
  EXPECT_EQ(CommittedAttempt(store, 200).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(CommittedAttempt(store, 300).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(LoadManifest(store, 200, {1, 2, 2}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(LoadManifest(store, 300, {1, 3, 3}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*ListSteps(store), (std::vector<int64_t>{100, 200, 300, 500}));
  EXPECT_EQ(ListCheckpoints(store)->committed.size(), 1u);
}

TEST(Reader, TheHighestCommittedAttemptOfAStep) {
  MemoryStore store;
  Commit(store, 5, {1, 9, 9});
  Commit(store, 5, {1, 10, 1});
  Abort(store, 5, {1, 11, 1});
  EXPECT_EQ(CommittedAttempt(store, 5)->attempt(), AttemptName({1, 10, 1}));
  EXPECT_EQ(ListCheckpoints(store)->committed.size(), 1u);
}

// A deletion of all that a step has would be told as done, and leave what could not be read.
TEST(Reader, AllAttemptsOfAStepOrAnError) {
  MemoryStore disk;
  Commit(disk, 5, {1, 9, 9});
  Commit(disk, 5, {2, 1, 1});
  Abort(disk, 5, {2, 2, 1});
  Commit(disk, 5, {3, 1, 1});
  Spoil(disk, Path(DecisionPath(5, AttemptName({3, 1, 1}))));
  FaultyStore store(&disk);
  bool clean = false;
  int failures = 0;
  for (int64_t n = 1; !clean; ++n, ++failures) {
    store.plan().Clear();
    store.plan().FailNth(FaultOp::kAny, n, absl::UnavailableError("EINTR"));
    const absl::StatusOr<std::vector<v1::Decision>> found = CommittedAttempts(store, 5);
    clean = found.ok();
    EXPECT_TRUE(!clean || found->size() == 2u) << n;
  }
  EXPECT_GT(failures, 6);
}

// Two orders of the same checkpoints, by name and by field, would be two answers to "latest".
TEST(Reader, ACommitOfAnotherEpochThanItsNameIsDataLoss) {
  MemoryStore store;
  v1::Decision decision = MakeTestCheckpoint(5, {1, 1, 1}, 1).intent();
  decision.set_epoch(2);
  ASSERT_TRUE(
      store.PublishExclusive(Path(DecisionPath(5, decision.attempt())), EncodeDecision(decision)).ok());
  EXPECT_EQ(ReadDecision(store, 5, {1, 1, 1}).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ListCheckpoints(store)->damaged, 1);
}

// A rollback that saves makes the new branch the latest; a debug run that saves nothing changes nothing.
TEST(Latest, FollowsEpochsNotSteps) {
  MemoryStore store;
  Claim(store, 1);
  Commit(store, 100, {1, 1, 1});
  Commit(store, 200, {1, 2, 1});
  Claim(store, 2);
  EXPECT_EQ(LatestStep(store), 200) << "claimed, loaded, saved nothing";
  SetParent(store, 2, 100, {1, 1, 1});
  EXPECT_EQ(LatestStep(store), 100) << "the first save began from step 100";
  Commit(store, 110, {2, 1, 1});
  EXPECT_EQ(LatestStep(store), 110);
  Claim(store, 3);
  EXPECT_EQ(LatestStep(store), 110);
  SetParent(store, 3, 150, {1, 5, 5});  // gone since
  EXPECT_EQ(LatestStep(store), 110);
}

TEST(Latest, ABranchThatBeganWithNothing) {
  MemoryStore store;
  Commit(store, 100, {1, 1, 1});
  Claim(store, 2);
  v1::EpochStep none;
  none.set_none(true);
  ASSERT_TRUE(store.PublishExclusive(Path(ParentPath(2)), EncodeEpochStep(none)).ok());
  EXPECT_EQ(LatestStep(store), -1);
}

// Going back silently to an older step would lose work; damage that could not be the answer is no obstacle.
TEST(Latest, DamageOfTheAnswerIsReported) {
  MemoryStore store;
  Commit(store, 100, {1, 1, 1});
  Commit(store, 200, {1, 2, 1});
  Spoil(store, Path(DecisionPath(100, AttemptName({1, 1, 1}))));
  EXPECT_EQ(LatestStep(store), 200);
  EXPECT_EQ(ListCheckpoints(store)->damaged, 1);
  Spoil(store, Path(DecisionPath(200, AttemptName({1, 2, 1}))));
  EXPECT_EQ(ResolveLatest(store).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CommittedAttempt(store, 200).status().code(), absl::StatusCode::kDataLoss);
}

// Records are believed at their own place alone: swapped and replayed ones are damage.
TEST(Manifest, SwappedReplayedAndMissingRecordsAreDataLoss) {
  const AttemptId a = {1, 1, 1}, b = {1, 2, 2};
  const std::string dir_a = AttemptDir(5, AttemptName(a)), dir_b = AttemptDir(6, AttemptName(b));
  for (const auto& [from, to] :
       std::vector<std::pair<std::string, std::string>>{{dir_b + "/DECISION", dir_a + "/DECISION"},
                                                        {dir_b + "/part-0.pb", dir_a + "/part-0.pb"},
                                                        {dir_a + "/part-1.pb", dir_a + "/part-0.pb"},
                                                        {"", dir_a + "/part-1.pb"}}) {
    MemoryStore store;
    Commit(store, 5, a);
    Commit(store, 6, b);
    const std::string bytes = from.empty() ? std::string() : *ReadBlob(store, Path(from));
    ASSERT_TRUE(store.Delete(Path(to)).ok());
    if (!from.empty()) {
      ASSERT_TRUE(store.PublishExclusive(Path(to), bytes).ok());
    }
    EXPECT_EQ(LoadManifest(store, 5, a).status().code(), absl::StatusCode::kDataLoss)
        << from << " over " << to;
  }
}

TEST(StoredTensors, JoinsPartsAndAliases) {
  MemoryStore store;
  Commit(store, 5, {1, 1, 1});
  absl::StatusOr<Manifest> manifest = LoadManifest(store, 5, {1, 1, 1});
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  absl::StatusOr<StoredContents> contents = StoredTensors(manifest->parts);
  ASSERT_TRUE(contents.ok()) << contents.status();
  ASSERT_EQ(contents->tensors.size(), 3u);
  const reshard::StoredTensor& w = contents->tensors.at("w");
  ASSERT_EQ(w.boxes.size(), 2u);
  EXPECT_EQ(w.boxes[1].box, (reshard::Box{{2, 0}, {2, 4}}));
  EXPECT_EQ(contents->extents[w.boxes[1].extent].part, 1u);
  EXPECT_EQ(contents->extents[w.boxes[1].extent].blob->name(), "model-00001-of-00002.safetensors");
  EXPECT_EQ(contents->tensors.at("tied").boxes[0].extent, contents->tensors.at("b").boxes[0].extent);
  EXPECT_EQ(contents->alias_of.at("tied"), "b");
  manifest->parts[1].mutable_tensors(0)->mutable_meta()->set_dtype("I32");
  EXPECT_EQ(StoredTensors(manifest->parts).status().code(), absl::StatusCode::kDataLoss);
}

TEST(Delete, ReaderSeesNothingAndSpaceComesBack) {
  MemoryStore store;
  Commit(store, 100, {1, 1, 1});
  Commit(store, 200, {1, 2, 1});
  EXPECT_TRUE(DeleteCheckpoint(store, 200, {1, 2, 1}, {}).ok());
  EXPECT_EQ(LatestStep(store), 100);
  EXPECT_TRUE(ListAttempts(store, 200)->empty());
  EXPECT_TRUE(DeleteCheckpoint(store, 200, {1, 2, 1}, {}).ok()) << "again";
}

TEST(Delete, PinsKeep) {
  MemoryStore store;
  Commit(store, 100, {1, 1, 1});
  ASSERT_TRUE(PinStep(store, 100, "reader", {}).ok());
  EXPECT_EQ(PinStep(store, 100, "reader", {}).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(DeleteCheckpoint(store, 100, {1, 1, 1}, {}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(LatestStep(store), 100) << "the withdrawn deletion left no trace";
  ASSERT_TRUE(UnpinStep(store, 100, "reader").ok());
  EXPECT_TRUE(DeleteCheckpoint(store, 100, {1, 1, 1}, {}).ok());
  EXPECT_EQ(PinStep(store, 100, "late", {}).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(ListPins(store, 100)->empty());
  EXPECT_EQ(PinStep(store, 100, "../x", {}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PinStep(store, 100, "a/b", {}).code(), absl::StatusCode::kInvalidArgument);
}

// A pin that came after DELETING is about to be withdrawn by its holder. A deletion that a crash cut off must not
// take it for one that came first, and show what is left of the checkpoint.
TEST(Delete, APinThatComesTooLateBringsNothingBack) {
  MemoryStore store;
  const AttemptId attempt = {1, 1, 1};
  Commit(store, 100, attempt);
  const std::string directory = AttemptDir(100, AttemptName(attempt));
  ASSERT_TRUE(store.PublishExclusive(Path(directory + "/DELETING"), EncodeMarker({})).ok());
  ASSERT_TRUE(store.PublishExclusive(Path(PinsPath(100) + "/late"), EncodeMarker({})).ok());
  EXPECT_EQ(DeleteCheckpoint(store, 100, attempt, {}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(LatestStep(store), 100) << "whole as it was, it may stay";
  ASSERT_TRUE(store.PublishExclusive(Path(directory + "/DELETING"), EncodeMarker({})).ok());
  ASSERT_TRUE(store.Delete(Path(directory + "/" + PartName(0))).ok());
  EXPECT_TRUE(DeleteCheckpoint(store, 100, attempt, {}).ok());
  EXPECT_TRUE(ListAttempts(store, 100)->empty());
}

TEST(Delete, OnlyWhatWasCommitted) {
  MemoryStore store;
  WriteTestCheckpoint(store, MakeTestCheckpoint(100, {1, 1, 1}, 2));
  Abort(store, 200, {1, 2, 1});
  EXPECT_EQ(DeleteCheckpoint(store, 100, {1, 1, 1}, {}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(DeleteCheckpoint(store, 200, {1, 2, 1}, {}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReclaimAborted(store, 100, {1, 1, 1}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(ReclaimAborted(store, 200, {1, 2, 1}).ok());
  EXPECT_EQ(ReadDecision(store, 200, {1, 2, 1})->kind(), v1::Decision::ABORT);
}

// A daemon that dies at any point of a deletion leaves either the whole checkpoint or nothing that readers
// see; the same call finishes it.
TEST(Delete, ACrashAtAnyPointIsFinishedLater) {
  struct Dying : public MemoryStore {
    int left = 1 << 30;
    absl::Status Delete(const BlobPath& path) override {
      return left-- > 0 ? MemoryStore::Delete(path) : absl::UnavailableError("dead");
    }
    absl::Status SyncTree(const BlobPath& path) override {
      return left-- > 0 ? MemoryStore::SyncTree(path) : absl::UnavailableError("dead");
    }
  };
  bool done = false;
  for (int n = 0; !done; ++n) {
    ASSERT_LT(n, 50);
    Dying store;
    Commit(store, 100, {1, 1, 1});
    Commit(store, 200, {1, 2, 1});
    store.left = n;
    done = DeleteCheckpoint(store, 200, {1, 2, 1}, {}).ok();
    store.left = 1 << 30;
    EXPECT_EQ(LatestStep(store), 100) << n;
    EXPECT_TRUE(DeleteCheckpoint(store, 200, {1, 2, 1}, {}).ok()) << n;
    EXPECT_TRUE(ListAttempts(store, 200)->empty()) << n;
  }
}

}  // namespace
}  // namespace keepstep::storage
