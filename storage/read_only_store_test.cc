#include "storage/read_only_store.h"

#include "gtest/gtest.h"
#include "storage/memory_store.h"

namespace keepstep::storage {
namespace {

TEST(ReadOnlyStore, ReadsAndChangesNothing) {
  auto memory = std::make_shared<MemoryStore>();
  MemoryStore& beneath = *memory;
  const BlobPath there = *BlobPath::Parse("epochs/1"), other = *BlobPath::Parse("epochs/2");
  ASSERT_TRUE(beneath.PublishExclusive(there, "claim").ok());
  ReadOnlyStore store(std::move(memory));
  EXPECT_EQ(*store.ReadPublished(there), "claim");
  EXPECT_EQ(store.List(*BlobPath::Parse("epochs"))->size(), 1u);
  EXPECT_TRUE(store.SyncTree(BlobPath::Root()).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(store.PublishExclusive(other, "x")));
  EXPECT_TRUE(absl::IsFailedPrecondition(store.Create(other, 0).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(store.Delete(there)));
  EXPECT_TRUE(absl::IsNotFound(beneath.ReadPublished(other).status()));
  EXPECT_EQ(*beneath.ReadPublished(there), "claim");
}

}  // namespace
}  // namespace keepstep::storage
