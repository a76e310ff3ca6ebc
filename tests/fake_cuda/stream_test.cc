// What runs in which order: streams, events, words in host memory.

#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "tests/fake_cuda/driver_library.h"

namespace keepstep::fake_cuda {
namespace {

// A word in host memory that streams wait for.
class StreamTest : public DriverTest {
 protected:
  void SetUp() override {
    DriverTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_CUDA(CU(cuMemAllocHost)(&page_, 4096));
    std::memset(page_, 0, 4096);
    ASSERT_CUDA(CU(cuStreamCreate)(&stream_, CU_STREAM_NON_BLOCKING));
    ASSERT_CUDA(CU(cuStreamCreate)(&other_, CU_STREAM_NON_BLOCKING));
    ASSERT_CUDA(CU(cuMemAlloc)(&memory_, 4096));
    ASSERT_CUDA(CU(cuMemsetD8)(memory_, 0, 4096));
    ASSERT_CUDA(CU(cuCtxSynchronize)());
  }

  void TearDown() override {
    if (memory_) {
      Open(~0u >> 1);
      EXPECT_CUDA(CU(cuCtxSynchronize)());
      EXPECT_CUDA(CU(cuMemFree)(memory_));
      EXPECT_CUDA(CU(cuStreamDestroy)(stream_));
      EXPECT_CUDA(CU(cuStreamDestroy)(other_));
      EXPECT_CUDA(CU(cuMemFreeHost)(page_));
    }
    DriverTest::TearDown();
  }

  std::atomic_ref<uint32_t> word() { return std::atomic_ref(*static_cast<uint32_t*>(page_)); }
  CUdeviceptr gate() const { return reinterpret_cast<CUdeviceptr>(page_); }
  void Open(uint32_t value) { word() = value; }

  // A driver that does not wait would have returned by then; one that waits is right whatever this takes.
  void OpenLate() {
    usleep(20'000);
    Open(1);
  }

  // Lets `stream` stand until the word is 1.
  void Close(CUstream stream) {
    ASSERT_CUDA(CU(cuStreamWaitValue32)(stream, gate(), 1, CU_STREAM_WAIT_VALUE_GEQ));
  }

  uint32_t First() {
    uint32_t value = 0;
    EXPECT_CUDA(CU(cuMemcpyDtoHAsync)(&value, memory_, 4, other_));
    EXPECT_CUDA(CU(cuStreamSynchronize)(other_));
    return value;
  }

  void* page_ = nullptr;
  CUstream stream_ = nullptr;
  CUstream other_ = nullptr;
  CUdeviceptr memory_ = 0;
};

TEST_F(StreamTest, WhatIsQueuedWaitsForTheWord) {
  Close(stream_);
  ASSERT_CUDA(CU(cuMemsetD32Async)(memory_, 7, 1, stream_));
  EXPECT_EQ(CU(cuStreamQuery)(stream_), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(First(), 0u);
  Open(1);
  ASSERT_CUDA(CU(cuStreamSynchronize)(stream_));
  EXPECT_CUDA(CU(cuStreamQuery)(stream_));
  EXPECT_EQ(First(), 7u);
}

// Greater-or-equal goes round: a counter that wraps must not shut the gate for good.
TEST_F(StreamTest, GreaterOrEqualIsCyclic) {
  Open(3);
  ASSERT_CUDA(CU(cuStreamWaitValue32)(stream_, gate(), 0xFFFFFFF0u, CU_STREAM_WAIT_VALUE_GEQ));
  ASSERT_CUDA(CU(cuStreamSynchronize)(stream_));
  Open(0xFFFFFFF0u);
  ASSERT_CUDA(CU(cuStreamWaitValue32)(stream_, gate(), 3, CU_STREAM_WAIT_VALUE_GEQ));
  EXPECT_EQ(CU(cuStreamQuery)(stream_), CUDA_ERROR_NOT_READY);
  Open(3);
  ASSERT_CUDA(CU(cuStreamSynchronize)(stream_));
}

TEST_F(StreamTest, WordsAreComparedInFourWays) {
  struct Case {
    unsigned flags;
    uint64_t value, too_little, enough;
  };
  for (const Case& one :
       {Case{CU_STREAM_WAIT_VALUE_GEQ, 5, 4, 6}, Case{CU_STREAM_WAIT_VALUE_EQ, 5, 6, 5},
        Case{CU_STREAM_WAIT_VALUE_AND, 4, 3, 5}, Case{CU_STREAM_WAIT_VALUE_NOR, 0, ~0ull, 1}}) {
    std::atomic_ref wide(*static_cast<uint64_t*>(page_));
    wide = one.too_little;
    ASSERT_CUDA(CU(cuStreamWaitValue64)(stream_, gate(), one.value, one.flags));
    ASSERT_CUDA(CU(cuStreamWaitValue32)(stream_, gate(), static_cast<uint32_t>(one.value), one.flags));
    EXPECT_EQ(CU(cuStreamQuery)(stream_), CUDA_ERROR_NOT_READY) << one.flags;
    wide = one.enough;
    ASSERT_CUDA(CU(cuStreamSynchronize)(stream_));
  }
}

TEST_F(StreamTest, WordsAreWrittenInOrder) {
  Close(stream_);
  ASSERT_CUDA(CU(cuStreamWriteValue32)(stream_, gate() + 8, 42, 0));
  ASSERT_CUDA(CU(cuStreamWriteValue64)(stream_, gate() + 16, 1ull << 40, 0));
  ASSERT_CUDA(CU(cuStreamWriteValue32)(stream_, memory_, 9, 0));
  EXPECT_EQ(std::atomic_ref(static_cast<uint32_t*>(page_)[2]), 0u);
  Open(1);
  ASSERT_CUDA(CU(cuStreamSynchronize)(stream_));
  EXPECT_EQ(std::atomic_ref(static_cast<uint32_t*>(page_)[2]), 42u);
  EXPECT_EQ(std::atomic_ref(static_cast<uint64_t*>(page_)[2]), 1ull << 40);
  EXPECT_EQ(First(), 9u);
}

TEST_F(StreamTest, OnlyRegisteredAndAlignedWordsCanBeWaitedFor) {
  alignas(8) uint32_t local = 5;
  EXPECT_NE(CU(cuStreamWaitValue32)(stream_, reinterpret_cast<CUdeviceptr>(&local), 1, 0), CUDA_SUCCESS);
  EXPECT_NE(CU(cuStreamWaitValue32)(stream_, gate() + 2, 1, 0), CUDA_SUCCESS);
  EXPECT_NE(CU(cuStreamWaitValue64)(stream_, gate() + 4, 1, 0), CUDA_SUCCESS);
}

TEST_F(StreamTest, AnUnrecordedEventIsNoWait) {
  CUevent event = nullptr;
  ASSERT_CUDA(CU(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING));
  EXPECT_CUDA(CU(cuEventQuery)(event));
  EXPECT_CUDA(CU(cuEventSynchronize)(event));
  ASSERT_CUDA(CU(cuStreamWaitEvent)(other_, event, 0));
  Close(stream_);
  ASSERT_CUDA(CU(cuEventRecord)(event, stream_));  // after the wait: it orders nothing
  EXPECT_CUDA(CU(cuStreamSynchronize)(other_));
  EXPECT_EQ(CU(cuEventQuery)(event), CUDA_ERROR_NOT_READY);
  Open(1);
  EXPECT_CUDA(CU(cuEventSynchronize)(event));
  EXPECT_CUDA(CU(cuEventDestroy)(event));
}

TEST_F(StreamTest, AWaitIsForTheRecordBeforeIt) {
  CUevent event = nullptr;
  ASSERT_CUDA(CU(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING));
  Close(stream_);
  ASSERT_CUDA(CU(cuMemsetD32Async)(memory_, 1, 1, stream_));
  ASSERT_CUDA(CU(cuEventRecord)(event, stream_));
  ASSERT_CUDA(CU(cuStreamWaitEvent)(other_, event, 0));
  ASSERT_CUDA(CU(cuStreamWriteValue32)(other_, gate() + 8, 1, 0));
  // A second record, further back, must not hold up who waits for the first.
  ASSERT_CUDA(CU(cuStreamWaitValue32)(stream_, gate(), 2, CU_STREAM_WAIT_VALUE_GEQ));
  ASSERT_CUDA(CU(cuEventRecord)(event, stream_));
  EXPECT_EQ(CU(cuStreamQuery)(other_), CUDA_ERROR_NOT_READY);
  Open(1);
  EXPECT_CUDA(CU(cuStreamSynchronize)(other_));
  EXPECT_EQ(CU(cuEventQuery)(event), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(First(), 1u);
  Open(2);
  EXPECT_CUDA(CU(cuEventSynchronize)(event));
  EXPECT_CUDA(CU(cuEventDestroy)(event));
}

TEST_F(StreamTest, EventsTellTheTimeBetweenThem) {
  CUevent start = nullptr, end = nullptr, untimed = nullptr;
  ASSERT_CUDA(CU(cuEventCreate)(&start, CU_EVENT_DEFAULT));
  ASSERT_CUDA(CU(cuEventCreate)(&end, CU_EVENT_DEFAULT));
  ASSERT_CUDA(CU(cuEventCreate)(&untimed, CU_EVENT_DISABLE_TIMING));
  float milliseconds = -1;
  EXPECT_EQ(CU(cuEventElapsedTime)(&milliseconds, start, end), CUDA_ERROR_INVALID_HANDLE);
  ASSERT_CUDA(CU(cuEventRecord)(start, stream_));
  Close(stream_);
  ASSERT_CUDA(CU(cuEventRecord)(end, stream_));
  ASSERT_CUDA(CU(cuEventRecord)(untimed, stream_));
  EXPECT_EQ(CU(cuEventElapsedTime)(&milliseconds, start, end), CUDA_ERROR_NOT_READY);
  Open(1);
  ASSERT_CUDA(CU(cuStreamSynchronize)(stream_));
  ASSERT_CUDA(CU(cuEventElapsedTime)(&milliseconds, start, end));
  EXPECT_GE(milliseconds, 0);
  EXPECT_EQ(CU(cuEventElapsedTime)(&milliseconds, start, untimed), CUDA_ERROR_INVALID_HANDLE);
  for (CUevent event : {start, end, untimed}) EXPECT_CUDA(CU(cuEventDestroy)(event));
  CUevent refused = nullptr;
  EXPECT_EQ(CU(cuEventCreate)(&refused, CU_EVENT_INTERPROCESS), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(StreamTest, AStreamThatIsDestroyedFinishesItsWork) {
  CUstream stream = nullptr;
  ASSERT_CUDA(CU(cuStreamCreateWithPriority)(&stream, CU_STREAM_NON_BLOCKING, 0));
  CUevent event = nullptr;
  ASSERT_CUDA(CU(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING));
  Close(stream);
  ASSERT_CUDA(CU(cuMemsetD32Async)(memory_, 3, 1, stream));
  ASSERT_CUDA(CU(cuEventRecord)(event, stream));
  ASSERT_CUDA(CU(cuStreamDestroy)(stream));
  Open(1);
  ASSERT_CUDA(CU(cuEventSynchronize)(event));
  EXPECT_EQ(First(), 3u);
  EXPECT_CUDA(CU(cuEventDestroy)(event));
  if (IsFake()) {
    EXPECT_EQ(CU(cuStreamSynchronize)(stream), CUDA_ERROR_INVALID_HANDLE);
  }
}

TEST_F(StreamTest, TheLegacyStreamWaitsForBlockingStreamsAndTheyForIt) {
  CUstream blocking = nullptr;
  ASSERT_CUDA(CU(cuStreamCreate)(&blocking, CU_STREAM_DEFAULT));
  Close(blocking);
  ASSERT_CUDA(CU(cuMemsetD32Async)(memory_, 5, 1, CU_STREAM_LEGACY));
  ASSERT_CUDA(CU(cuStreamWriteValue32)(blocking, gate() + 8, 1, 0));
  EXPECT_EQ(CU(cuStreamQuery)(nullptr), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(First(), 0u);  // a non-blocking stream passes both
  Open(1);
  ASSERT_CUDA(CU(cuStreamSynchronize)(blocking));
  EXPECT_EQ(First(), 5u);
  EXPECT_CUDA(CU(cuStreamDestroy)(blocking));
}

TEST_F(StreamTest, EachThreadHasADefaultStreamOfItsOwn) {
  Close(CU_STREAM_PER_THREAD);
  EXPECT_EQ(CU(cuStreamQuery)(CU_STREAM_PER_THREAD), CUDA_ERROR_NOT_READY);
  std::thread([&] {
    EXPECT_CUDA(CU(cuCtxSetCurrent)(context_));
    EXPECT_CUDA(CU(cuMemsetD32Async)(memory_, 8, 1, CU_STREAM_PER_THREAD));
    EXPECT_CUDA(CU(cuStreamSynchronize)(CU_STREAM_PER_THREAD));
  }).join();
  EXPECT_EQ(First(), 8u);
  Open(1);
  ASSERT_CUDA(CU(cuStreamSynchronize)(CU_STREAM_PER_THREAD));
}

// A copy into memory that is not registered costs the caller its time: it is over when the call returns.
TEST_F(StreamTest, PageableMemoryIsCopiedWhileTheCallerWaits) {
  uint32_t source = 11, target = 0;
  Close(stream_);
  ASSERT_CUDA(CU(cuMemcpyHtoDAsync)(memory_, &source, 4, stream_));
  source = 12;  // it was taken already
  std::thread opener([&] { OpenLate(); });
  ASSERT_CUDA(CU(cuMemcpyDtoHAsync)(&target, memory_, 4, stream_));
  EXPECT_EQ(target, 11u);
  opener.join();
}

TEST_F(StreamTest, RegisteredMemoryIsCopiedBehindTheCaller) {
  auto* const words = static_cast<uint32_t*>(page_);
  words[4] = 11;
  Close(stream_);
  ASSERT_CUDA(CU(cuMemcpyHtoDAsync)(memory_, &words[4], 4, stream_));
  ASSERT_CUDA(CU(cuMemcpyDtoHAsync)(&words[5], memory_, 4, stream_));
  words[4] = 12;
  EXPECT_EQ(words[5], 0u);
  Open(1);
  ASSERT_CUDA(CU(cuStreamSynchronize)(stream_));
  EXPECT_EQ(words[5], 12u);
}

TEST_F(StreamTest, HostFunctionsRunInOrderAndMayNotCallTheDriver) {
  struct Seen {
    std::atomic<int> calls = 0;
    CUresult inside = CUDA_SUCCESS;
  } seen;
  Close(stream_);
  ASSERT_CUDA(CU(cuLaunchHostFunc)(
      stream_,
      [](void* data) {
        auto* const seen = static_cast<Seen*>(data);
        CUdevice device = 0;
        seen->inside = CU(cuCtxGetDevice)(&device);
        ++seen->calls;
      },
      &seen));
  EXPECT_EQ(seen.calls, 0);
  Open(1);
  ASSERT_CUDA(CU(cuStreamSynchronize)(stream_));
  EXPECT_EQ(seen.calls, 1);
  if (IsFake()) {
    EXPECT_EQ(seen.inside, CUDA_ERROR_NOT_PERMITTED);
  }
}

TEST_F(StreamTest, FreeingWaitsForWhatIsQueued) {
  CUdeviceptr block = 0;
  auto* const words = static_cast<uint32_t*>(page_);
  ASSERT_CUDA(CU(cuMemAlloc)(&block, 4096));
  ASSERT_CUDA(CU(cuMemsetD32Async)(block, 77, 1, stream_));
  Close(stream_);
  ASSERT_CUDA(CU(cuMemcpyDtoHAsync)(&words[4], block, 4, stream_));
  std::thread opener([&] { OpenLate(); });
  ASSERT_CUDA(CU(cuMemFree)(block));
  EXPECT_EQ(words[4], 77u);
  opener.join();
}

}  // namespace
}  // namespace keepstep::fake_cuda
