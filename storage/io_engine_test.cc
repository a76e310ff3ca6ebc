#include "storage/io_engine.h"

#include <errno.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "storage/io_transfer.h"
#include "storage/temporary_directory.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {
namespace {

using Kind = IoEngineOptions::Kind;

class IoEngineTest : public ::testing::TestWithParam<Kind> {
 protected:
  IoEngineTest() : file_(open((directory_.path() + "/file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {}

  std::unique_ptr<IoEngine> Start(size_t max_queued = 4096) {
    return std::move(MakeIoEngine({.kind = GetParam(), .uring_depth = 4, .max_queued = max_queued})->engine);
  }

  IoOp Op(IoOp::Kind kind, int64_t offset_bytes, void* data, size_t size_bytes,
          std::function<void(int64_t)> done) {
    return {.kind = kind,
            .fd = file_.get(),
            .offset_bytes = offset_bytes,
            .data = data,
            .size_bytes = size_bytes,
            .done = std::move(done)};
  }

  int64_t Move(IoEngine& engine, IoOp::Kind kind, int64_t offset_bytes, void* data, size_t size_bytes) {
    std::promise<int64_t> result;
    engine.Submit(Op(kind, offset_bytes, data, size_bytes, [&](int64_t moved) { result.set_value(moved); }));
    return result.get_future().get();
  }

  TemporaryDirectory directory_;
  UniqueFd file_;
};

TEST_P(IoEngineTest, WritesAndReads) {
  auto engine = Start();
  std::string out(100'000, 'a');
  std::string in(200'000, '\0');
  EXPECT_EQ(Move(*engine, IoOp::Kind::kWrite, 10, out.data(), out.size()), 100'000);
  EXPECT_EQ(Move(*engine, IoOp::Kind::kRead, 10, in.data(), 100'000), 100'000);
  EXPECT_EQ(in.substr(0, 100'000), out);
  // Short only at the end of the file.
  EXPECT_EQ(Move(*engine, IoOp::Kind::kRead, 10, in.data(), 200'000), 100'000);
  EXPECT_EQ(Move(*engine, IoOp::Kind::kRead, 500'000, in.data(), 10), 0);
}

TEST_P(IoEngineTest, ReportsErrors) {
  auto engine = Start();
  char byte = 0;
  file_ = UniqueFd(open(directory_.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  EXPECT_EQ(Move(*engine, IoOp::Kind::kRead, 0, &byte, 1), -EISDIR);
  EXPECT_EQ(Move(*engine, IoOp::Kind::kWrite, 0, &byte, 1), -EBADF);
}

TEST_P(IoEngineTest, TheDestructorWaitsForAllAndForWhatTheySubmit) {
  constexpr int kOps = 200;
  static char bytes[kOps][512];
  std::atomic<int> first{0};
  std::atomic<int> second{0};
  {
    auto engine = Start();
    for (int i = 0; i < kOps; ++i) {
      engine->Submit(Op(IoOp::Kind::kWrite, i * 512, bytes[i], 512, [&, i](int64_t moved) {
        first += moved == 512;
        engine->Submit(
            Op(IoOp::Kind::kRead, i * 512, bytes[i], 512, [&](int64_t again) { second += again == 512; }));
      }));
    }
  }
  EXPECT_EQ(first, kOps);
  EXPECT_EQ(second, kOps);
}

// A caller that forgets its own limit gets an error, not memory without bound.
TEST_P(IoEngineTest, RefusesMoreThanItsQueueHolds) {
  std::promise<void> release;
  std::shared_future<void> released(release.get_future());
  static char bytes[512];
  std::atomic<int> refused{0};
  std::atomic<int> done{0};
  {
    auto engine = Start(/*max_queued=*/8);
    for (int i = 0; i < 200; ++i) {
      // Holding the engine's threads here stands in for storage that does not answer.
      engine->Submit(Op(IoOp::Kind::kWrite, 0, bytes, 512, [&](int64_t moved) {
        ++done;
        if (moved == -ENOBUFS) {
          ++refused;
        } else {
          released.wait();
        }
      }));
    }
    EXPECT_GT(refused, 0);
    release.set_value();
  }
  EXPECT_EQ(done, 200);
  EXPECT_LT(refused, 200);
}

INSTANTIATE_TEST_SUITE_P(Kinds, IoEngineTest, ::testing::Values(Kind::kAuto, Kind::kThreads));

TEST(MakeIoEngine, SaysWhatItChoseAndWhy) {
  absl::StatusOr<IoEngineChoice> threads = MakeIoEngine({.kind = Kind::kThreads});
  ASSERT_TRUE(threads.ok());
  EXPECT_EQ(threads->name, "threads");
  absl::StatusOr<IoEngineChoice> any = MakeIoEngine({});
  ASSERT_TRUE(any.ok());
  EXPECT_FALSE(any->reason.empty());
  RecordProperty("chosen", any->name + ": " + any->reason);
  EXPECT_EQ(MakeIoEngine({.kind = Kind::kUring}).ok(), any->name == "io_uring");
  EXPECT_EQ(MakeIoEngine({.uring_depth = 0}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeIoEngine({.pool_threads = 1000}).status().code(), absl::StatusCode::kInvalidArgument);
}

IoTransfer Transfer(IoOp::Kind kind, bool cached_only, int64_t* result) {
  static char bytes[100];
  return IoTransfer({.kind = kind,
                     .fd = -1,
                     .offset_bytes = 1000,
                     .data = bytes,
                     .size_bytes = 100,
                     .cached_only = cached_only,
                     .done = [result](int64_t moved) { *result = moved; }});
}

TEST(IoTransfer, GoesOnAfterShortAndInterruptedCalls) {
  int64_t result = 0;
  IoTransfer transfer = Transfer(IoOp::Kind::kWrite, false, &result);
  EXPECT_FALSE(transfer.Advance(30));
  EXPECT_EQ(transfer.piece_offset_bytes(), 1030);
  EXPECT_EQ(transfer.piece_bytes(), 70u);
  EXPECT_FALSE(transfer.Advance(-EINTR));
  EXPECT_FALSE(transfer.Advance(-EAGAIN));
  EXPECT_TRUE(transfer.Advance(70));
  transfer.Finish();
  EXPECT_EQ(result, 100);
}

TEST(IoTransfer, EndsWithTheErrorEvenAfterAShortWrite) {
  int64_t result = 0;
  IoTransfer transfer = Transfer(IoOp::Kind::kWrite, false, &result);
  EXPECT_FALSE(transfer.Advance(30));
  EXPECT_TRUE(transfer.Advance(-ENOSPC));
  transfer.Finish();
  EXPECT_EQ(result, -ENOSPC);
}

TEST(IoTransfer, GivesUpOnEndlessInterruptionsAndEmptyWrites) {
  int64_t result = 0;
  IoTransfer interrupted = Transfer(IoOp::Kind::kRead, false, &result);
  int tries = 1;
  while (!interrupted.Advance(-EINTR)) ASSERT_LT(++tries, 1000);
  interrupted.Finish();
  EXPECT_EQ(result, -EINTR);
  IoTransfer empty = Transfer(IoOp::Kind::kWrite, false, &result);
  EXPECT_TRUE(empty.Advance(0));
  empty.Finish();
  EXPECT_EQ(result, -EIO);
}

TEST(IoTransfer, ACachedReadStopsAtTheFirstGap) {
  int64_t result = 0;
  IoTransfer missing = Transfer(IoOp::Kind::kRead, true, &result);
  EXPECT_TRUE(missing.Advance(-EAGAIN));
  missing.Finish();
  EXPECT_EQ(result, -EAGAIN);
  IoTransfer partial = Transfer(IoOp::Kind::kRead, true, &result);
  EXPECT_TRUE(partial.Advance(40));
  partial.Finish();
  EXPECT_EQ(result, 40);
}

}  // namespace
}  // namespace keepstep::storage
