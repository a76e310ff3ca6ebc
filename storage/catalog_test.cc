#include "storage/catalog.h"

#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "storage/attempt.h"
#include "storage/commit.h"
#include "storage/delete.h"
#include "storage/memory_store.h"
#include "storage/test_parts.h"

namespace keepstep::storage {
namespace {

namespace fs = std::filesystem;

constexpr char kJob[] = "/data/llama";

class CatalogTest : public testing::Test {
 protected:
  CatalogTest() {
    directory_ = std::string(std::getenv("TEST_TMPDIR")) + "/" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(directory_);
    Open();
  }

  void Open() {
    catalog_.reset();
    absl::StatusOr<Catalog::Opened> opened = Catalog::Open(directory_);
    ASSERT_TRUE(opened.ok()) << opened.status();
    rebuilt_ = opened->rebuilt;
    moved_to_ = opened->moved_to;
    catalog_ = std::move(opened->catalog);
  }

  v1::Decision Commit(int64_t step, AttemptId id, int nodes = 2) {
    const TestCheckpoint checkpoint = MakeTestCheckpoint(step, id, nodes);
    const v1::Decision decision = CommitTestCheckpoint(store_, checkpoint);
    EXPECT_TRUE(catalog_->RecordCommit(kJob, decision, checkpoint.parts).ok());
    return decision;
  }

  std::vector<int64_t> Steps() {
    std::vector<int64_t> steps;
    absl::StatusOr<std::vector<CatalogCheckpoint>> rows = catalog_->ListCheckpoints(kJob);
    EXPECT_TRUE(rows.ok()) << rows.status();
    for (const CatalogCheckpoint& row : *rows) steps.push_back(row.decision.step());
    return steps;
  }

  std::string LayoutOf(size_t row) { return (*catalog_->ListCheckpoints(kJob))[row].layout_id; }

  std::vector<std::string> Names(const std::string& layout, const std::string& prefix, int limit = 100) {
    std::vector<std::string> names;
    std::string token;
    do {
      absl::StatusOr<CatalogPage> page = catalog_->QueryPrefix(layout, prefix, limit, token);
      EXPECT_TRUE(page.ok()) << page.status();
      if (!page.ok()) break;
      for (const CatalogShard& shard : page->shards) names.push_back(shard.meta.fqn());
      token = page->next_token;
    } while (!token.empty());
    return names;
  }

  MemoryStore store_;
  std::string directory_, moved_to_;
  bool rebuilt_ = false;
  std::unique_ptr<Catalog> catalog_;
};

using Strings = std::vector<std::string>;
using Int64s = std::vector<int64_t>;

TEST_F(CatalogTest, RowsSurviveAndKeepTheOrderOfEpochs) {
  Commit(200, {1, 1, 1});
  Commit(100, {2, 1, 1});
  Commit(300, {1, 2, 1});
  EXPECT_EQ(Steps(), (Int64s{200, 300, 100}));
  Open();
  EXPECT_FALSE(rebuilt_);
  EXPECT_EQ(Steps(), (Int64s{200, 300, 100}));
  EXPECT_EQ(*catalog_->ListJobs(), Strings{kJob});
  EXPECT_TRUE(catalog_->ListCheckpoints("/data/llam")->empty()) << "one job's name may begin another's";
}

// Saves of one layout share its rows; one that lies elsewhere does not.
TEST_F(CatalogTest, LayoutsAreWrittenOnce) {
  Commit(100, {1, 1, 1});
  Commit(200, {1, 2, 1});
  Commit(300, {1, 3, 1}, 3);
  EXPECT_EQ(LayoutOf(0), LayoutOf(1));
  EXPECT_NE(LayoutOf(0), LayoutOf(2));
  TestCheckpoint moved = MakeTestCheckpoint(400, {1, 4, 1}, 2);
  moved.parts[1].mutable_blobs(0)->set_name("model-00001-of-00002-r1.safetensors");
  ASSERT_TRUE(catalog_->RecordCommit(kJob, CommitTestCheckpoint(store_, moved), moved.parts).ok());
  EXPECT_NE(LayoutOf(0), LayoutOf(3));
  EXPECT_EQ(Names(LayoutOf(0), ""), (Strings{"b", "tied", "w", "w"}));
  EXPECT_EQ(Names(LayoutOf(2), "w"), (Strings{"w", "w", "w"}));
}

TEST_F(CatalogTest, QueriesPageByPrefix) {
  Commit(100, {1, 1, 1});
  const std::string layout = LayoutOf(0);
  for (int limit : {1, 2, 3, 4, 5})
    EXPECT_EQ(Names(layout, "", limit), (Strings{"b", "tied", "w", "w"})) << limit;
  EXPECT_EQ(Names(layout, "ti"), Strings{"tied"});
  EXPECT_TRUE(Names(layout, "x").empty());
  EXPECT_TRUE(Names("no such layout", "").empty());
  absl::StatusOr<CatalogPage> page = catalog_->QueryPrefix(layout, "w", 10, "");
  ASSERT_EQ(page->shards.size(), 2u);
  EXPECT_EQ(page->shards[1].box.origin(0), 2);
  EXPECT_EQ(page->shards[1].part, 1u);
  EXPECT_EQ(page->shards[1].blob, "model-00001-of-00002.safetensors");
  EXPECT_EQ(page->shards[1].offset_bytes, 64);
  EXPECT_EQ(page->shards[1].size_bytes, 32);
  for (int limit : {0, -1, 10001})
    EXPECT_EQ(catalog_->QueryPrefix(layout, "", limit, "").status().code(),
              absl::StatusCode::kInvalidArgument);
  for (const char* token : {"x", "abc", "zz", "00"}) {
    EXPECT_EQ(catalog_->QueryPrefix(layout, "", 1, token).status().code(), absl::StatusCode::kInvalidArgument)
        << token;
  }
}

// Space of layouts comes back with their last checkpoint, and not before.
TEST_F(CatalogTest, UnusedLayoutsGo) {
  Commit(100, {1, 1, 1});
  Commit(200, {1, 2, 1});
  Commit(300, {1, 3, 1}, 3);
  const std::string shared = LayoutOf(0), kept = LayoutOf(2);
  ASSERT_TRUE(catalog_->RecordGone(kJob, 100, AttemptName({1, 1, 1})).ok());
  EXPECT_EQ(Names(shared, "").size(), 4u);
  ASSERT_TRUE(catalog_->RecordGone(kJob, 200, AttemptName({1, 2, 1})).ok());
  EXPECT_TRUE(Names(shared, "").empty());
  EXPECT_EQ(Names(kept, "").size(), 5u);
  Commit(400, {1, 4, 1});
  EXPECT_EQ(Names(shared, "").size(), 4u) << "written again when it is used again";
}

// The catalog is an index: what storage decided is true.
TEST_F(CatalogTest, TheDecisionWins) {
  Commit(100, {1, 1, 1});
  CommitTestCheckpoint(store_, MakeTestCheckpoint(200, {1, 2, 1}, 2));  // a crash before the row
  TestCheckpoint aborted = MakeTestCheckpoint(300, {1, 3, 1}, 2);
  WriteTestCheckpoint(store_, aborted);
  ASSERT_EQ(Decide(store_, CommitMachine(CommitMachine::Want::kAbort, aborted.intent(), {})).kind,
            CommitOutcome::Kind::kAborted);
  ASSERT_TRUE(
      catalog_->RecordCommit(kJob, aborted.intent(), aborted.parts).ok());  // a row that claims a commit
  v1::Decision gone = MakeTestCheckpoint(400, {1, 4, 1}, 2).intent();
  ASSERT_TRUE(catalog_->RecordCommit(kJob, gone, {}).ok());  // a row of nothing at all
  EXPECT_EQ(Steps(), (Int64s{100, 300, 400}));
  absl::StatusOr<int64_t> changes = catalog_->Reconcile(kJob, store_);
  ASSERT_TRUE(changes.ok()) << changes.status();
  EXPECT_EQ(*changes, 3);
  EXPECT_EQ(Steps(), (Int64s{100, 200}));
  EXPECT_EQ(*catalog_->Reconcile(kJob, store_), 0);
  EXPECT_EQ(Names(LayoutOf(1), "").size(), 4u);
}

TEST_F(CatalogTest, RebuiltFromStorageAfterDamage) {
  Commit(100, {1, 1, 1});
  Commit(200, {1, 2, 1}, 3);
  ASSERT_TRUE(catalog_->RecordCommit("/data/other", MakeTestCheckpoint(1, {1, 1, 1}, 1).intent(), {}).ok());
  catalog_.reset();
  for (const fs::directory_entry& entry : fs::directory_iterator(directory_)) {
    const std::string name = entry.path().filename();
    if (name.rfind("MANIFEST", 0) == 0 || name == "CURRENT")
      std::ofstream(entry.path(), std::ios::trunc) << "junk";
  }
  Open();
  EXPECT_TRUE(rebuilt_);
  EXPECT_TRUE(fs::exists(moved_to_));
  EXPECT_TRUE(Steps().empty());
  absl::StatusOr<ReindexCounts> counts = catalog_->Reindex(kJob, store_);
  ASSERT_TRUE(counts.ok()) << counts.status();
  EXPECT_EQ(counts->checkpoints, 2);
  EXPECT_EQ(counts->extents, 3 + 4);
  EXPECT_EQ(Steps(), (Int64s{100, 200}));
  EXPECT_EQ(catalog_->Reindex(kJob, store_)->checkpoints, 2) << "again";
  Open();
  EXPECT_FALSE(rebuilt_);
}

TEST_F(CatalogTest, LostFilesAreDamageToo) {
  Commit(100, {1, 1, 1});
  catalog_.reset();
  for (const fs::directory_entry& entry : fs::directory_iterator(directory_)) {
    if (entry.path().filename().string().rfind("MANIFEST", 0) == 0) fs::remove(entry.path());
  }
  Open();
  EXPECT_TRUE(rebuilt_);
  EXPECT_EQ(catalog_->Reindex(kJob, store_)->checkpoints, 1);
}

// A daemon that starts beside a running one must not move the database away under it.
TEST_F(CatalogTest, AHeldDatabaseIsLeftAlone) {
  EXPECT_EQ(Catalog::Open(directory_).status().code(), absl::StatusCode::kUnavailable);
  Commit(100, {1, 1, 1});
  EXPECT_EQ(Steps(), Int64s{100});
}

TEST_F(CatalogTest, JournalAndRosterSurvive) {
  const std::string attempt = AttemptName({1, 1, 1});
  ASSERT_TRUE(catalog_->PutJournal({kJob, attempt, 100, 1}).ok());
  ASSERT_TRUE(catalog_->PutJournal({"/data/llama2", attempt, 5, 1}).ok());
  CatalogRoster roster;
  roster.epoch = 3;
  roster.world_size = 2;
  roster.members = {{0, {1, 2, 3}}, {1, {4, 5, 6}}};
  ASSERT_TRUE(catalog_->PutRoster(kJob, roster).ok());
  Open();
  absl::StatusOr<std::vector<CatalogJournalRow>> journal = catalog_->Journal();
  ASSERT_EQ(journal->size(), 2u);
  EXPECT_EQ((*journal)[0].job, kJob);
  EXPECT_EQ((*journal)[0].step, 100);
  ASSERT_TRUE(catalog_->EraseJournal(kJob, attempt).ok());
  ASSERT_TRUE(catalog_->EraseJournal(kJob, attempt).ok()) << "again";
  EXPECT_EQ(catalog_->Journal()->size(), 1u);
  absl::StatusOr<std::optional<CatalogRoster>> read = catalog_->Roster(kJob);
  ASSERT_TRUE(read.ok() && read->has_value());
  EXPECT_EQ((*read)->epoch, 3);
  EXPECT_EQ((*read)->members[1].nonce[2], 6);
  EXPECT_FALSE(catalog_->Roster("/data/other")->has_value());
  EXPECT_EQ(catalog_->PutJournal({"", attempt, 0, 0}).code(), absl::StatusCode::kInvalidArgument);
}

// RocksDB refuses all writes after one that failed: a disk that was full for a moment must not cost the
// daemon its saves.
TEST_F(CatalogTest, WritesGoOnAfterOneThatFailed) {
  const std::string first = AttemptName({1, 1, 1}), second = AttemptName({1, 2, 1}),
                    third = AttemptName({1, 3, 1});
  ASSERT_TRUE(catalog_->PutJournal({kJob, first, 100, 1}).ok());
  signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit none = {1, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  EXPECT_FALSE(catalog_->PutJournal({kJob, second, 200, 1}).ok());
  EXPECT_FALSE(catalog_->PutJournal({kJob, second, 200, 1}).ok()) << "it cannot be opened again either";
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  const absl::Status status = catalog_->PutJournal({kJob, third, 300, 1});
  EXPECT_TRUE(status.ok()) << status;
  for (int turn = 0; turn < 2; ++turn) {
    const auto rows = catalog_->Journal();
    ASSERT_TRUE(rows.ok()) << rows.status();
    std::vector<std::string> attempts;
    for (const CatalogJournalRow& row : *rows) attempts.push_back(row.attempt);
    EXPECT_EQ(attempts, (std::vector<std::string>{first, third}));
    Open();
    EXPECT_FALSE(rebuilt_);
  }
}

TEST_F(CatalogTest, ThreadsMayShareIt) {
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 10; ++i) {
        const TestCheckpoint checkpoint =
            MakeTestCheckpoint(t * 100 + i, {1, i, static_cast<uint64_t>(t)}, 1 + t % 2);
        v1::Decision decision = checkpoint.intent();
        failures += !catalog_->RecordCommit(kJob, decision, checkpoint.parts).ok();
        failures += !catalog_->ListCheckpoints(kJob).ok();
        if (i % 2 == 0) failures += !catalog_->RecordGone(kJob, checkpoint.step, checkpoint.attempt).ok();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(Steps().size(), 20u);
  for (size_t i = 0; i < 20; ++i)
    EXPECT_FALSE(Names(LayoutOf(i), "").empty()) << "a used layout keeps its rows";
}

}  // namespace
}  // namespace keepstep::storage
