// Legacy handles and interprocess events, between two processes.

#include <sys/mman.h>

#include <cstring>
#include <vector>

#include "tests/fake_cuda/driver_library.h"
#include "tests/fake_cuda/peer.h"

namespace keepstep::fake_cuda {
namespace {

constexpr size_t kBytes = 3 << 20;
constexpr unsigned kFlags = CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS;

struct Exported {
  CUipcMemHandle handle;
  CUdeviceptr pointer;
};

Exported ExportNew(size_t size_bytes, unsigned char content) {
  Exported exported{};
  REQUIRE(CU(cuMemAlloc)(&exported.pointer, size_bytes) == CUDA_SUCCESS);
  REQUIRE(CU(cuMemsetD8)(exported.pointer, content, size_bytes) == CUDA_SUCCESS);
  REQUIRE(CU(cuCtxSynchronize)() == CUDA_SUCCESS);
  REQUIRE(CU(cuIpcGetMemHandle)(&exported.handle, exported.pointer) == CUDA_SUCCESS);
  return exported;
}

// Exports a block of 0x11; at each word the other sends: 'r' reads its last byte, 'f' frees it, 'n' frees it
// and exports a new one of 0x22.
PEER(exporter) {
  StartGpu();
  Exported block = ExportNew(kBytes, 0x11);
  channel.Send(block);
  while (true) {
    const char order = channel.Receive<char>();
    unsigned char last = 0;
    if (order == 'r') {
      REQUIRE(CU(cuMemcpyDtoH)(&last, block.pointer + kBytes - 1, 1) == CUDA_SUCCESS);
    } else {
      REQUIRE(CU(cuMemFree)(block.pointer) == CUDA_SUCCESS);
    }
    channel.Send(last);
    if (order == 'n') channel.Send(block = ExportNew(kBytes, 0x22));
  }
}

class IpcTest : public DriverTest {
 protected:
  CUresult Open(const Exported& exported, CUdeviceptr& pointer) {
    return CU(cuIpcOpenMemHandle)(&pointer, exported.handle, kFlags);
  }

  unsigned char At(CUdeviceptr pointer) {
    unsigned char byte = 0;
    EXPECT_CUDA(CU(cuMemcpyDtoH)(&byte, pointer, 1));
    return byte;
  }
};

TEST_F(IpcTest, BothProcessesSeeOneMemory) {
  Peer peer("exporter");
  const auto exported = peer.channel().Receive<Exported>();
  CUdeviceptr pointer = 0;
  ASSERT_CUDA(Open(exported, pointer));
  EXPECT_EQ(At(pointer), 0x11);
  ASSERT_CUDA(CU(cuMemsetD8)(pointer + kBytes - 1, 0x77, 1));
  ASSERT_CUDA(CU(cuCtxSynchronize)());
  peer.channel().Send('r');
  EXPECT_EQ(peer.channel().Receive<unsigned char>(), 0x77);
  CUdeviceptr base = 0;
  size_t size_bytes = 0;
  ASSERT_CUDA(CU(cuMemGetAddressRange)(&base, &size_bytes, pointer + 5));
  EXPECT_EQ(base, pointer);
  EXPECT_GE(size_bytes, kBytes);
  EXPECT_CUDA(CU(cuIpcCloseMemHandle)(pointer));
}

TEST_F(IpcTest, OpeningInTheSameProcessFails) {
  const Exported exported = ExportNew(4096, 1);
  CUdeviceptr pointer = 0;
  EXPECT_EQ(Open(exported, pointer), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_CUDA(CU(cuMemFree)(exported.pointer));
}

TEST_F(IpcTest, OpeningAgainCountsAndClosingTooOftenFails) {
  Peer peer("exporter");
  const auto exported = peer.channel().Receive<Exported>();
  CUdeviceptr first = 0, second = 0;
  ASSERT_CUDA(Open(exported, first));
  ASSERT_CUDA(Open(exported, second));
  EXPECT_EQ(first, second);
  EXPECT_CUDA(CU(cuIpcCloseMemHandle)(first));
  EXPECT_EQ(At(second), 0x11);
  EXPECT_CUDA(CU(cuIpcCloseMemHandle)(second));
  EXPECT_NE(CU(cuIpcCloseMemHandle)(second), CUDA_SUCCESS);
  char byte = 0;
  EXPECT_EQ(CU(cuMemcpyDtoH)(&byte, second, 1), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(IpcTest, AHandleFromInsideIsOfTheWholeAllocation) {
  CUdeviceptr pointer = 0;
  ASSERT_CUDA(CU(cuMemAlloc)(&pointer, kBytes));
  CUipcMemHandle base{}, inside{};
  ASSERT_CUDA(CU(cuIpcGetMemHandle)(&base, pointer));
  ASSERT_CUDA(CU(cuIpcGetMemHandle)(&inside, pointer + 12345));
  EXPECT_EQ(std::memcmp(&base, &inside, sizeof base), 0);
  EXPECT_CUDA(CU(cuMemFree)(pointer));
}

TEST_F(IpcTest, HandlesWithWrongBytesOrFlagsAreRefused) {
  Peer peer("exporter");
  const auto exported = peer.channel().Receive<Exported>();
  CUdeviceptr pointer = 0;
  EXPECT_EQ(CU(cuIpcOpenMemHandle)(&pointer, exported.handle, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_NE(CU(cuIpcOpenMemHandle)(&pointer, CUipcMemHandle{}, kFlags), CUDA_SUCCESS);
  EXPECT_EQ(CU(cuIpcCloseMemHandle)(exported.pointer), CUDA_ERROR_INVALID_VALUE);
}

// The worst leak, and what makes a rescue possible.
TEST_F(IpcTest, AnOpenMappingOutlivesItsExporter) {
  Peer peer("exporter");
  const auto exported = peer.channel().Receive<Exported>();
  CUdeviceptr pointer = 0, again = 0;
  ASSERT_CUDA(Open(exported, pointer));
  peer.Kill();
  std::vector<unsigned char> bytes(kBytes), expected(kBytes, 0x11);
  ASSERT_CUDA(CU(cuMemcpyDtoH)(bytes.data(), pointer, kBytes));
  EXPECT_EQ(bytes, expected);
  EXPECT_CUDA(CU(cuIpcCloseMemHandle)(pointer));
  EXPECT_NE(Open(exported, again), CUDA_SUCCESS);
}

TEST_F(IpcTest, WhatTheExporterFreedCannotBeOpened) {
  SKIP_UNLESS_FAKE("undefined there");
  Peer peer("exporter");
  const auto exported = peer.channel().Receive<Exported>();
  peer.channel().Send('f');
  peer.channel().Receive<unsigned char>();
  CUdeviceptr pointer = 0;
  EXPECT_EQ(Open(exported, pointer), CUDA_ERROR_INVALID_VALUE);
}

// Exports a small block that has a neighbour, frees it when told to, and says so.
PEER(small_exporter) {
  StartGpu();
  const Exported block = ExportNew(1000, 0x11), neighbour = ExportNew(1000, 0x12);
  channel.Send(block);
  channel.Send(neighbour);
  channel.Receive<char>();
  REQUIRE(CU(cuMemFree)(block.pointer) == CUDA_SUCCESS);
  channel.Send('f');
  channel.Receive<char>();
}

// Small blocks share what lies behind them, and still come and go each for itself.
TEST_F(IpcTest, SmallBlocksAreSharedAndFreedOneByOne) {
  Peer peer("small_exporter");
  const auto block = peer.channel().Receive<Exported>();
  const auto neighbour = peer.channel().Receive<Exported>();
  CUdeviceptr one = 0, two = 0;
  ASSERT_CUDA(Open(block, one));
  EXPECT_EQ(At(one + 999), 0x11);
  EXPECT_CUDA(CU(cuIpcCloseMemHandle)(one));
  peer.channel().Send('f');
  peer.channel().Receive<char>();
  if (IsFake()) {
    EXPECT_EQ(Open(block, one), CUDA_ERROR_INVALID_VALUE);
  }
  ASSERT_CUDA(Open(neighbour, two));
  EXPECT_EQ(At(two + 999), 0x12);
  EXPECT_CUDA(CU(cuIpcCloseMemHandle)(two));
}

// A cache that goes by addresses would serve the old block for the new one: here it reads garbage, not old
// bytes.
TEST_F(IpcTest, AStaleMappingReadsGarbage) {
  SKIP_UNLESS_FAKE("undefined there");
  Peer peer("exporter");
  const auto old = peer.channel().Receive<Exported>();
  CUdeviceptr stale = 0, fresh = 0;
  ASSERT_CUDA(Open(old, stale));
  peer.channel().Send('n');
  peer.channel().Receive<unsigned char>();
  const auto renewed = peer.channel().Receive<Exported>();
  EXPECT_EQ(renewed.pointer, old.pointer);
  EXPECT_NE(std::memcmp(&renewed.handle, &old.handle, sizeof old.handle), 0);
  EXPECT_EQ(At(stale), 0xDD);
  EXPECT_EQ(At(stale + kBytes - 1), 0xDD);
  ASSERT_CUDA(Open(renewed, fresh));
  EXPECT_NE(fresh, stale);
  EXPECT_EQ(At(fresh), 0x22);
  EXPECT_CUDA(CU(cuIpcCloseMemHandle)(fresh));
  EXPECT_CUDA(CU(cuIpcCloseMemHandle)(stale));
}

// An event, not recorded; then, when the other says so, recorded behind a gate that the second word opens.
PEER(event_exporter) {
  StartGpu();
  CUevent event = nullptr;
  CUstream stream = nullptr;
  void* page = nullptr;
  CUipcEventHandle handle;
  REQUIRE(CU(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS) == CUDA_SUCCESS);
  REQUIRE(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS);
  REQUIRE(CU(cuMemAllocHost)(&page, 4096) == CUDA_SUCCESS);
  std::memset(page, 0, 4096);
  REQUIRE(CU(cuIpcGetEventHandle)(&handle, event) == CUDA_SUCCESS);
  channel.Send(handle);
  channel.Receive<char>();
  const auto gate = reinterpret_cast<CUdeviceptr>(page);
  REQUIRE(CU(cuStreamWaitValue32)(stream, gate, 1, CU_STREAM_WAIT_VALUE_GEQ) == CUDA_SUCCESS);
  REQUIRE(CU(cuEventRecord)(event, stream) == CUDA_SUCCESS);
  channel.Send('r');
  channel.Receive<char>();
  std::atomic_ref(*static_cast<uint32_t*>(page)) = 1;
  channel.Receive<char>();
}

class IpcEventTest : public DriverTest {
 protected:
  void SetUp() override {
    DriverTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (!Attribute(CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED))
      GTEST_SKIP() << "the GPU has no interprocess events";
    ASSERT_CUDA(CU(cuStreamCreate)(&stream_, CU_STREAM_NON_BLOCKING));
  }

  CUstream stream_ = nullptr;
};

TEST_F(IpcEventTest, AnEventOrdersAcrossProcessesOnceItIsRecorded) {
  Peer peer("event_exporter");
  CUevent event = nullptr;
  ASSERT_CUDA(CU(cuIpcOpenEventHandle)(&event, peer.channel().Receive<CUipcEventHandle>()));
  ASSERT_CUDA(CU(cuStreamWaitEvent)(stream_, event, 0));
  EXPECT_CUDA(CU(cuStreamSynchronize)(stream_));  // not recorded: no wait
  peer.channel().Send('r');
  peer.channel().Receive<char>();
  ASSERT_CUDA(CU(cuStreamWaitEvent)(stream_, event, 0));
  EXPECT_EQ(CU(cuEventQuery)(event), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(CU(cuStreamQuery)(stream_), CUDA_ERROR_NOT_READY);
  peer.channel().Send('g');
  EXPECT_CUDA(CU(cuStreamSynchronize)(stream_));
  EXPECT_CUDA(CU(cuEventSynchronize)(event));
  EXPECT_CUDA(CU(cuEventDestroy)(event));
  EXPECT_CUDA(CU(cuStreamDestroy)(stream_));
}

TEST_F(IpcEventTest, OnlyInterprocessEventsHaveHandlesAndOnlyForOthers) {
  CUevent plain = nullptr, shared = nullptr, opened = nullptr;
  CUipcEventHandle handle;
  ASSERT_CUDA(CU(cuEventCreate)(&plain, CU_EVENT_DISABLE_TIMING));
  ASSERT_CUDA(CU(cuEventCreate)(&shared, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS));
  EXPECT_NE(CU(cuIpcGetEventHandle)(&handle, plain), CUDA_SUCCESS);
  ASSERT_CUDA(CU(cuIpcGetEventHandle)(&handle, shared));
  EXPECT_NE(CU(cuIpcOpenEventHandle)(&opened, handle), CUDA_SUCCESS);
  EXPECT_CUDA(CU(cuEventDestroy)(plain));
  EXPECT_CUDA(CU(cuEventDestroy)(shared));
  EXPECT_CUDA(CU(cuStreamDestroy)(stream_));
}

PEER(event_destroyer) {
  StartGpu();
  CUevent event = nullptr;
  CUipcEventHandle handle;
  REQUIRE(CU(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS) == CUDA_SUCCESS);
  REQUIRE(CU(cuIpcGetEventHandle)(&handle, event) == CUDA_SUCCESS);
  REQUIRE(CU(cuEventDestroy)(event) == CUDA_SUCCESS);
  channel.Send(handle);
  channel.Receive<char>();
}

TEST_F(IpcEventTest, AnEventThatIsGoneCannotBeOpened) {
  SKIP_UNLESS_FAKE("undefined there");
  Peer peer("event_destroyer");
  CUevent event = nullptr;
  EXPECT_NE(CU(cuIpcOpenEventHandle)(&event, peer.channel().Receive<CUipcEventHandle>()), CUDA_SUCCESS);
  EXPECT_CUDA(CU(cuStreamDestroy)(stream_));
}

// What a dead process had queued is never done: who waits for its event waits for good, and must have another
// way out.
PEER(waiter_for_a_dead_one) {
  StartGpu();
  CUstream stream = nullptr;
  CUevent event = nullptr;
  REQUIRE(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS);
  Peer peer("event_exporter");
  REQUIRE(CU(cuIpcOpenEventHandle)(&event, peer.channel().Receive<CUipcEventHandle>()) == CUDA_SUCCESS);
  peer.channel().Send('r');
  peer.channel().Receive<char>();
  REQUIRE(CU(cuStreamWaitEvent)(stream, event, 0) == CUDA_SUCCESS);
  peer.Kill();
  REQUIRE(CU(cuEventQuery)(event) == CUDA_ERROR_NOT_READY);
  REQUIRE(CU(cuStreamQuery)(stream) == CUDA_ERROR_NOT_READY);
}

TEST_F(IpcEventTest, AnEventOfADeadProcessIsNeverCompleted) {
  SKIP_UNLESS_FAKE("not documented there; the fake assumes the worst");
  EXPECT_CUDA(CU(cuStreamDestroy)(stream_));
  EXPECT_TRUE(Peer("waiter_for_a_dead_one").Ended());
}

}  // namespace
}  // namespace keepstep::fake_cuda
