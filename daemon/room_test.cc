#include "daemon/room.h"

#include "absl/strings/match.h"
#include "daemon/error.h"
#include "gtest/gtest.h"
#include "storage/memory_store.h"
#include "storage/usage.h"

namespace keepstep::daemon {
namespace {

storage::BlobPath Path(absl::string_view text) { return storage::BlobPath::Parse(text).value(); }

TEST(Room, RefusesWithTheNumbersAndWhatToDo) {
  storage::MemoryStore store(1000);
  ASSERT_TRUE(
      storage::PutBlob(store, Path("000000000100/e1-a1-00000000000000ab/blob"), std::string(300, 'x')).ok());
  ASSERT_TRUE(storage::PutBlob(store, Path("epochs/1/CLAIM"), std::string(100, 'x')).ok());
  EXPECT_EQ(*storage::StoredBytes(store), 400);
  EXPECT_TRUE(CheckRoom(store, "llama", 600, 0).ok());
  const absl::Status full = CheckRoom(store, "llama", 601, 0);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(full), "DISK_FULL");
  EXPECT_TRUE(absl::StrContains(full.message(), "needs 601 B of space; 600 B are free")) << full.message();
  EXPECT_TRUE(absl::StrContains(full.message(), "keepstep gc llama --dry-run"));
  EXPECT_TRUE(CheckRoom(store, "llama", 100, 500).ok());
  const absl::Status quota = CheckRoom(store, "llama", 101, 500);
  EXPECT_EQ(ReasonOf(quota), "QUOTA");
  EXPECT_TRUE(absl::StrContains(quota.message(), "needs 101 B; the job holds 400 B of its 500 B"))
      << quota.message();
  EXPECT_EQ(ReasonOf(CheckRoom(store, "llama", 1, 300)), "QUOTA") << "over it already";
}

}  // namespace
}  // namespace keepstep::daemon
