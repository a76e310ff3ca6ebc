// Each test says what the checkpoint protocol would lose without it.

#include "storage/blob_store_conformance.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

#include "storage/aligned_buffer.h"

namespace keepstep::storage {
namespace {

using absl::StatusCode;

std::string Pattern(size_t size_bytes, uint32_t seed) {
  std::string bytes(size_bytes, '\0');
  uint32_t state = seed * 2654435761u + 1;
  for (char& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<char>(state >> 24);
  }
  return bytes;
}

absl::Span<const std::byte> Bytes(absl::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// Starts operations and waits for all of them, as a pipeline does.
class Batch {
 public:
  IoDone Add() {
    std::lock_guard<std::mutex> lock(mutex_);
    ++open_;
    return [this](absl::Status status) {
      std::lock_guard<std::mutex> lock(mutex_);
      first_failure_.Update(status);
      if (--open_ == 0) none_open_.notify_all();
    };
  }

  absl::Status Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    none_open_.wait(lock, [this] { return open_ == 0; });
    return first_failure_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable none_open_;
  int open_ = 0;
  absl::Status first_failure_;
};

TEST_P(BlobStoreConformance, KeepsBlobsOfAwkwardSizes) {
  for (size_t size_bytes : {size_t{0}, size_t{1}, size_t{511}, size_t{4095}, size_t{4096}, size_t{4097},
                            size_t{12288}, (size_t{1} << 20) + 7, (size_t{3} << 20) - 1}) {
    const BlobPath path = Path("sizes/" + std::to_string(size_bytes));
    const std::string bytes = Pattern(size_bytes, 1);
    ASSERT_TRUE(PutBlob(store(), path, bytes).ok()) << size_bytes;
    absl::StatusOr<std::string> read = ReadBlob(store(), path);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_TRUE(*read == bytes) << size_bytes;
  }
}

// A shard is streamed in pieces by several threads at once, its header last; order must not matter.
TEST_P(BlobStoreConformance, WritesOfALargeBlobCompleteInAnyOrder) {
  constexpr int64_t kPiece = int64_t{1} << 20;
  constexpr int64_t kSize = 20 * kPiece + 1234;
  const std::string pattern = Pattern(kSize, 2);
  AlignedBuffer buffer = MakeAlignedBuffer(kSize);
  memcpy(buffer.get(), pattern.data(), kSize);
  absl::StatusOr<std::unique_ptr<BlobWriter>> writer = store().Create(Path("large/blob"), kSize);
  ASSERT_TRUE(writer.ok()) << writer.status();
  Batch batch;
  for (int64_t i = 20; i >= 0; --i) {
    const int64_t at = (i * 13) % 21 * kPiece;
    (*writer)->Write(at, {buffer.get() + at, static_cast<size_t>(std::min(kPiece, kSize - at))}, batch.Add());
  }
  ASSERT_TRUE(batch.Wait().ok());
  ASSERT_TRUE((*writer)->Finish(kSize).ok());

  absl::StatusOr<std::unique_ptr<BlobReader>> reader = store().Open(Path("large/blob"));
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->size_bytes(), kSize);
  AlignedBuffer back = MakeAlignedBuffer(kSize);
  Batch reads;
  for (int64_t at = 0; at < kSize; at += kPiece) {
    (*reader)->Read(at, {back.get() + at, static_cast<size_t>(std::min(kPiece, kSize - at))}, reads.Add());
  }
  ASSERT_TRUE(reads.Wait().ok());
  EXPECT_EQ(memcmp(back.get(), pattern.data(), kSize), 0);
}

TEST_P(BlobStoreConformance, ReadsAnyRangeIntoAnyMemory) {
  const std::string bytes = Pattern(100'003, 3);
  ASSERT_TRUE(PutBlob(store(), Path("ranges"), bytes).ok());
  absl::StatusOr<std::unique_ptr<BlobReader>> reader = store().Open(Path("ranges"));
  ASSERT_TRUE(reader.ok());
  AlignedBuffer memory = MakeAlignedBuffer(106'496);
  for (int64_t offset : {0, 1, 4096, 8192, 99'999}) {
    for (int64_t size : {0, 1, 4, 4096, 8192, 91'811}) {
      for (int64_t shift : {0, 1, 512}) {
        if (offset + size > 100'003) continue;
        const absl::Span<std::byte> into(memory.get() + shift, static_cast<size_t>(size));
        ASSERT_TRUE(ReadExactly(**reader, offset, into).ok()) << offset << " " << size << " " << shift;
        ASSERT_EQ(memcmp(into.data(), bytes.data() + offset, into.size()), 0) << offset << " " << size;
      }
    }
  }
}

// A short read taken for a whole one would hand a trainer the end of another tensor.
TEST_P(BlobStoreConformance, ReadsPastTheEndFail) {
  ASSERT_TRUE(PutBlob(store(), Path("short"), "hello").ok());
  absl::StatusOr<std::unique_ptr<BlobReader>> reader = store().Open(Path("short"));
  ASSERT_TRUE(reader.ok());
  std::byte into[6];
  EXPECT_TRUE(ReadExactly(**reader, 0, {into, 5}).ok());
  EXPECT_TRUE(ReadExactly(**reader, 5, {into, 0}).ok());
  EXPECT_EQ(ReadExactly(**reader, 0, {into, 6}).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(ReadExactly(**reader, 5, {into, 1}).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(ReadExactly(**reader, -1, {into, 1}).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(ReadExactly(**reader, int64_t{1} << 62, {into, 1}).code(), StatusCode::kOutOfRange);
}

// A writer that padded its last piece itself says the true size at the end.
TEST_P(BlobStoreConformance, FinishCutsPaddingOff) {
  AlignedBuffer buffer = MakeAlignedBuffer(8192);
  memset(buffer.get(), 'x', 8192);
  absl::StatusOr<std::unique_ptr<BlobWriter>> writer = store().Create(Path("padded"), 1 << 20);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(WriteExactly(**writer, 0, {buffer.get(), 8192}).ok());
  ASSERT_TRUE((*writer)->Finish(5000).ok());
  EXPECT_EQ(ReadBlob(store(), Path("padded")).value(), std::string(5000, 'x'));
}

TEST_P(BlobStoreConformance, FinishRefusesASizeThatWasNotWritten) {
  AlignedBuffer buffer = MakeAlignedBuffer(8192);
  memset(buffer.get(), 0, 8192);
  for (int64_t size : {int64_t{8193}, int64_t{4096}, int64_t{0}, int64_t{-1}}) {
    const BlobPath path = Path("wrong/" + std::to_string(size + 1));
    absl::StatusOr<std::unique_ptr<BlobWriter>> writer = store().Create(path, 0);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(WriteExactly(**writer, 0, {buffer.get(), 8192}).ok());
    EXPECT_EQ((*writer)->Finish(size).code(), StatusCode::kFailedPrecondition) << size;
  }
}

TEST_P(BlobStoreConformance, AFailedWriteFailsFinish) {
  absl::StatusOr<std::unique_ptr<BlobWriter>> writer = store().Create(Path("failed"), 0);
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ(WriteExactly(**writer, 100, Bytes("unaligned")).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(WriteExactly(**writer, 0, Bytes("good")).ok());
  EXPECT_EQ((*writer)->Finish(4).code(), StatusCode::kInvalidArgument);
}

// Nothing is ever written in place over an earlier attempt.
TEST_P(BlobStoreConformance, CreateRefusesWhatIsThere) {
  ASSERT_TRUE(PutBlob(store(), Path("once/blob"), "first").ok());
  EXPECT_EQ(store().Create(Path("once/blob"), 0).status().code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(store().Create(Path("once"), 0).status().code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(store().PublishExclusive(Path("once/blob"), "x").code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(store().Create(Path("once/blob/beneath"), 0).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(store().Create(BlobPath::Root(), 0).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadBlob(store(), Path("once/blob")).value(), "first");
}

TEST_P(BlobStoreConformance, AnAbandonedBlobCanBeDeleted) {
  { ASSERT_TRUE(store().Create(Path("left"), 4096).ok()); }
  EXPECT_EQ(store().Create(Path("left"), 0).status().code(), StatusCode::kAlreadyExists);
  EXPECT_TRUE(store().Delete(Path("left")).ok());
  EXPECT_TRUE(PutBlob(store(), Path("left"), "again").ok());
}

TEST_P(BlobStoreConformance, MissingBlobsAreNotFound) {
  EXPECT_EQ(store().Open(Path("no")).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store().Open(Path("no/such/blob")).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store().ReadPublished(Path("no/record")).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store().SyncTree(Path("no")).code(), StatusCode::kNotFound);
  EXPECT_TRUE(store().Delete(Path("no/such/blob")).ok());
  ASSERT_TRUE(PutBlob(store(), Path("directory/blob"), "x").ok());
  EXPECT_EQ(store().Open(Path("directory")).status().code(), StatusCode::kFailedPrecondition);
}

// Two outcomes of one attempt would be a split decision.
TEST_P(BlobStoreConformance, ExactlyOneOfRacingPublishersWins) {
  constexpr int kThreads = 8;
  for (int round = 0; round < 20; ++round) {
    const BlobPath path = Path("race/" + std::to_string(round) + "/DECISION");
    std::atomic<int> winners{0};
    std::atomic<int> losers{0};
    std::atomic<int> winner{-1};
    std::promise<void> start;
    std::shared_future<void> started(start.get_future());
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        started.wait();
        absl::Status status = store().PublishExclusive(path, "publisher " + std::to_string(i));
        if (status.ok()) winner = i, ++winners;
        if (status.code() == StatusCode::kAlreadyExists) ++losers;
      });
    }
    start.set_value();
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(winners, 1);
    EXPECT_EQ(losers, kThreads - 1);
    EXPECT_EQ(store().ReadPublished(path).value(), "publisher " + std::to_string(winner));
    // No temporary name is left beside it.
    EXPECT_EQ(store().List(path.Parent())->size(), 1u);
  }
}

TEST_P(BlobStoreConformance, PublishedRecordsMayBeEmptyOrLarge) {
  const std::string large = Pattern((size_t{5} << 20) + 3, 4);
  ASSERT_TRUE(store().PublishExclusive(Path("records/empty"), "").ok());
  ASSERT_TRUE(store().PublishExclusive(Path("records/large"), large).ok());
  EXPECT_EQ(store().ReadPublished(Path("records/empty")).value(), "");
  EXPECT_TRUE(store().ReadPublished(Path("records/large")).value() == large);
  EXPECT_TRUE(ReadBlob(store(), Path("records/large")).value() == large);
}

TEST_P(BlobStoreConformance, ListsOneLevelSorted) {
  for (const char* path : {"job/b/x", "job/a", "job/c", "job-2/y"})
    ASSERT_TRUE(PutBlob(store(), Path(path), "12345").ok());
  absl::StatusOr<std::vector<BlobInfo>> entries = store().List(Path("job"));
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_EQ((*entries)[0].path.text(), "job/a");
  EXPECT_EQ((*entries)[0].size_bytes, 5);
  EXPECT_FALSE((*entries)[0].is_directory);
  EXPECT_EQ((*entries)[1].path.text(), "job/b");
  EXPECT_EQ((*entries)[1].size_bytes, 0);
  EXPECT_TRUE((*entries)[1].is_directory);
  EXPECT_EQ((*entries)[2].path.text(), "job/c");
  EXPECT_EQ(store().List(BlobPath::Root())->size(), 2u);
  EXPECT_TRUE(store().List(Path("missing"))->empty());
  EXPECT_EQ(store().List(Path("job/a")).status().code(), StatusCode::kFailedPrecondition);
}

TEST_P(BlobStoreConformance, DeletesBlobsAndEmptyDirectories) {
  ASSERT_TRUE(PutBlob(store(), Path("d/blob"), "x").ok());
  EXPECT_EQ(store().Delete(Path("d")).code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(store().Delete(Path("d/blob")).ok());
  EXPECT_TRUE(store().Delete(Path("d/blob")).ok());
  EXPECT_EQ(store().Open(Path("d/blob")).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store().List(BlobPath::Root())->size(), 1u);
  EXPECT_TRUE(store().Delete(Path("d")).ok());
  EXPECT_TRUE(store().List(BlobPath::Root())->empty());
  EXPECT_EQ(store().Delete(BlobPath::Root()).code(), StatusCode::kInvalidArgument);
}

TEST_P(BlobStoreConformance, DeleteTreeTakesAllAndOnlyWhatIsBeneath) {
  for (const char* path : {"job/1/a/x", "job/1/a/y", "job/1/DECISION", "job/10/keep"}) {
    ASSERT_TRUE(PutBlob(store(), Path(path), "x").ok());
  }
  EXPECT_TRUE(DeleteTree(store(), Path("job/1")).ok());
  EXPECT_EQ(store().List(Path("job"))->size(), 1u);
  EXPECT_EQ(ReadBlob(store(), Path("job/10/keep")).value(), "x");
  EXPECT_TRUE(DeleteTree(store(), Path("job/1")).ok());
  EXPECT_TRUE(DeleteTree(store(), Path("job/10/keep")).ok());
  std::string deep = "deep";
  for (int i = 0; i < 20; ++i) deep += "/d";
  ASSERT_TRUE(PutBlob(store(), Path(deep), "x").ok());
  EXPECT_EQ(DeleteTree(store(), Path("deep")).code(), StatusCode::kFailedPrecondition);
}

// Collection may delete what a slow reader has open: it gets the old bytes or an error, never others.
TEST_P(BlobStoreConformance, AReaderKeepsItsBytesAfterDelete) {
  const std::string first = Pattern(8192, 5);
  ASSERT_TRUE(PutBlob(store(), Path("open"), first).ok());
  absl::StatusOr<std::unique_ptr<BlobReader>> reader = store().Open(Path("open"));
  ASSERT_TRUE(reader.ok());
  ASSERT_TRUE(store().Delete(Path("open")).ok());
  ASSERT_TRUE(PutBlob(store(), Path("open"), Pattern(8192, 6)).ok());
  std::string into(8192, '\0');
  absl::Status status = ReadExactly(**reader, 0, {reinterpret_cast<std::byte*>(into.data()), into.size()});
  EXPECT_TRUE(!status.ok() || into == first);
}

TEST_P(BlobStoreConformance, SyncsUpToTheRoot) {
  ASSERT_TRUE(PutBlob(store(), Path("a/b/c"), "x").ok());
  EXPECT_TRUE(store().SyncTree(Path("a/b")).ok());
  EXPECT_TRUE(store().SyncTree(BlobPath::Root()).ok());
  EXPECT_EQ(store().SyncTree(Path("a/b/c")).code(), StatusCode::kFailedPrecondition);
}

TEST_P(BlobStoreConformance, ProbePassesAndLeavesNothing) {
  EXPECT_TRUE(Probe(store(), Path("probe")).ok());
  EXPECT_TRUE(store().List(BlobPath::Root())->empty());
  ASSERT_TRUE(PutBlob(store(), Path("probe"), "mine").ok());
  EXPECT_EQ(Probe(store(), Path("probe")).code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(ReadBlob(store(), Path("probe")).value(), "mine");
}

TEST_P(BlobStoreConformance, RefusesMoreThanItHasSpaceFor) {
  absl::StatusOr<int64_t> space_bytes = store().SpaceAvailable();
  ASSERT_TRUE(space_bytes.ok());
  EXPECT_GT(*space_bytes, 0);
  EXPECT_EQ(store().Create(Path("huge"), *space_bytes + (int64_t{1} << 40)).status().code(),
            StatusCode::kResourceExhausted);
  EXPECT_TRUE(PutBlob(store(), Path("huge"), "fits").ok());
}

}  // namespace
}  // namespace keepstep::storage
