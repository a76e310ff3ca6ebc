#include "storage/faulty_store.h"

#include "gtest/gtest.h"
#include "storage/memory_store.h"

namespace keepstep::storage {
namespace {

BlobPath Path(absl::string_view text) { return BlobPath::Parse(text).value(); }

TEST(FaultyStore, FailsTheNthOperationOnce) {
  MemoryStore memory;
  FaultyStore store(&memory);
  store.plan().FailNth(FaultOp::kWrite, 2, absl::AbortedError("EIO"));
  EXPECT_TRUE(PutBlob(store, Path("a"), "x").ok());
  EXPECT_EQ(PutBlob(store, Path("b"), "x").code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(PutBlob(store, Path("c"), "x").ok());
  EXPECT_EQ(store.plan().Count(FaultOp::kWrite), 3);
  EXPECT_EQ(store.plan().Count(FaultOp::kAny), 3 + 3 + 2);
}

TEST(FaultyStore, FailsFromAnOperationOn) {
  MemoryStore memory;
  FaultyStore store(&memory);
  ASSERT_TRUE(PutBlob(store, Path("a"), "x").ok());
  store.plan().FailFrom(FaultOp::kAny, 2, absl::UnavailableError("gone"));
  EXPECT_TRUE(store.List(BlobPath::Root()).ok());
  EXPECT_EQ(ReadBlob(store, Path("a")).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(store.Delete(Path("a")).code(), absl::StatusCode::kUnavailable);
  store.plan().Clear();
  EXPECT_EQ(ReadBlob(store, Path("a")).value(), "x");
}

// A decision whose reply was lost is there all the same.
TEST(FaultyStore, AFaultAfterTheOperationLosesOnlyTheReply) {
  MemoryStore memory;
  FaultyStore store(&memory);
  store.plan().FailNth(FaultOp::kPublish, 1, absl::UnavailableError("lost"), FaultTime::kAfter);
  EXPECT_EQ(store.PublishExclusive(Path("DECISION"), "x").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(store.ReadPublished(Path("DECISION")).value(), "x");
}

// The caller must not be able to finish a blob of which a write failed.
TEST(FaultyStore, AFailedWriteFailsFinish) {
  MemoryStore memory;
  FaultyStore store(&memory);
  store.plan().FailNth(FaultOp::kWrite, 1, absl::AbortedError("EIO"));
  auto writer = store.Create(Path("a"), 0).value();
  const std::byte byte{1};
  EXPECT_EQ(WriteExactly(*writer, 0, {&byte, 1}).code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(WriteExactly(*writer, 0, {&byte, 1}).ok());
  EXPECT_EQ(writer->Finish(1).code(), absl::StatusCode::kAborted);
}

// Some object stores accept the condition and ignore it.
TEST(Probe, RefusesAStoreThatOverwrites) {
  class Overwriting : public MemoryStore {
   public:
    absl::Status PublishExclusive(const BlobPath& path, absl::string_view bytes) override {
      if (absl::Status status = Delete(path); !status.ok()) return status;
      return MemoryStore::PublishExclusive(path, bytes);
    }
  };
  Overwriting store;
  EXPECT_EQ(Probe(store, Path("probe")).code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace keepstep::storage
