// The whole life of checkpoints on a file system: what the in-memory tests show, through real directories.

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "storage/attempt.h"
#include "storage/checkpoint_reader.h"
#include "storage/commit.h"
#include "storage/delete.h"
#include "storage/file_store.h"
#include "storage/io_engine.h"
#include "storage/test_parts.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {
namespace {

using Kind = CommitOutcome::Kind;
using Want = CommitMachine::Want;

TEST(OnDisk, CommitSettleAbortDelete) {
  const std::string root = std::string(std::getenv("TEST_TMPDIR")) + "/job";
  ASSERT_EQ(mkdir(root.c_str(), 0755), 0);
  auto engine = MakeIoEngine({});
  ASSERT_TRUE(engine.ok()) << engine.status();
  auto store = FileStore::Start(UniqueFd(open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)),
                                engine->engine.get(), {});
  ASSERT_TRUE(store.ok()) << store.status();

  CommitTestCheckpoint(**store, MakeTestCheckpoint(100, {1, 1, 1}, 3));
  const TestCheckpoint found = MakeTestCheckpoint(200, {1, 2, 1}, 2);  // a daemon died before its decision
  WriteTestCheckpoint(**store, found);
  EXPECT_EQ(Decide(**store, CommitMachine(Want::kSettle, found.intent(), {})).kind, Kind::kCommitted);
  const TestCheckpoint half = MakeTestCheckpoint(300, {1, 3, 1}, 2);
  WriteTestBlobs(**store, half);
  EXPECT_EQ(Decide(**store, CommitMachine(Want::kSettle, half.intent(), {})).kind, Kind::kAborted);
  const TestCheckpoint never = MakeTestCheckpoint(400, {1, 4, 1}, 2);
  EXPECT_EQ(Decide(**store, CommitMachine(Want::kSettle, never.intent(), {})).kind, Kind::kAborted);

  auto latest = ResolveLatest(**store);
  ASSERT_TRUE(latest.ok() && latest->has_value()) << latest.status();
  EXPECT_EQ((*latest)->step(), 200);
  EXPECT_EQ(LoadManifest(**store, 100, {1, 1, 1})->parts.size(), 3u);
  EXPECT_EQ((*store)->List(*BlobPath::Parse(AttemptDir(300, half.attempt)))->size(), 1u);

  ASSERT_TRUE(PinStep(**store, 200, "me", {}).ok());
  EXPECT_EQ(DeleteCheckpoint(**store, 200, {1, 2, 1}, {}).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(UnpinStep(**store, 200, "me").ok());
  EXPECT_TRUE(DeleteCheckpoint(**store, 200, {1, 2, 1}, {}).ok());
  EXPECT_EQ((*ResolveLatest(**store))->step(), 100);
}

}  // namespace
}  // namespace keepstep::storage
