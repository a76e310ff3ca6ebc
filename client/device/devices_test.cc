// Devices against the driver that the loader finds, which in the suite is tests/fake_cuda.

#include "client/device/devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "client/device/driver_facts.h"
#include "client/device/test_memory.h"
#include "client/failure.h"

namespace keepstep::client {
namespace {

class DevicesTest : public fake_cuda::DriverTest {
 protected:
  void TearDown() override {
    devices_.reset();
    DriverTest::TearDown();
  }

  std::vector<Allocation> Find(const std::vector<DeviceRange>& ranges) {
    auto found = devices_->Find(ranges);
    EXPECT_TRUE(found.ok()) << found.status();
    return found.ok() ? *std::move(found) : std::vector<Allocation>();
  }

  std::unique_ptr<Devices> devices_ = std::make_unique<Devices>();
};

TEST_F(DevicesTest, ManyTensorsInOneAllocationShareItsHandle) {
  const Block block(1 << 20);
  const auto found = Find({{block.pointer() + 4096, 100, "b"}, {block.pointer(), 4096, "a"}});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].address, block.pointer());
  EXPECT_EQ(found[0].size_bytes, block.size_bytes());
  EXPECT_EQ(found[0].path, DevicePath::kIpc);
  EXPECT_EQ(found[0].ipc.size(), sizeof(CUipcMemHandle));
  CUuuid uuid;
  ASSERT_CUDA(CU(cuDeviceGetUuid)(&uuid, device_));
  EXPECT_EQ(found[0].gpu, std::string(uuid.bytes, sizeof(uuid.bytes)));
}

// Freed, and another at its address: the daemon must not be given the handle of the memory that is gone.
TEST_F(DevicesTest, AReusedAddressIsOtherMemory) {
  CUdeviceptr first = 0, second = 0;
  ASSERT_CUDA(CU(cuMemAlloc)(&first, 1 << 20));
  const auto before = Find({{first, 1 << 20, "w"}});
  EXPECT_EQ(Find({{first, 1 << 20, "w"}})[0].ipc, before[0].ipc);
  ASSERT_CUDA(CU(cuMemFree)(first));
  ASSERT_CUDA(CU(cuMemAlloc)(&second, 1 << 20));
  if (second != first) GTEST_SKIP() << "this driver did not use the address again";
  const auto after = Find({{second, 1 << 20, "w"}});
  EXPECT_NE(after[0].Key(), before[0].Key());
  EXPECT_NE(after[0].ipc, before[0].ipc);
  ASSERT_CUDA(CU(cuMemFree)(second));
}

TEST_F(DevicesTest, APieceThatWasReplacedIsOtherMemory) {
  Pieces pieces(3);
  const auto before = Find({{pieces.pointer(), pieces.size_bytes(), "w"}});
  ASSERT_EQ(before.size(), 3u);
  pieces.Replace(1);
  const auto after = Find({{pieces.pointer(), pieces.size_bytes(), "w"}});
  ASSERT_EQ(after.size(), 3u);
  EXPECT_EQ(after[0].Key(), before[0].Key());
  EXPECT_NE(after[1].Key(), before[1].Key());
  EXPECT_EQ(after[2].Key(), before[2].Key());
}

TEST_F(DevicesTest, ARangeTouchesOnlyItsPieces) {
  const Pieces pieces(5);
  const uint64_t at = pieces.pointer() + pieces.piece_bytes();
  const auto found = Find({{at + 100, pieces.piece_bytes(), "w"}, {at + 10, 20, "v"}});
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].address, at);
  EXPECT_EQ(found[0].path, DevicePath::kVmm);
  EXPECT_EQ(found[1].address, at + pieces.piece_bytes());
}

TEST_F(DevicesTest, DescriptorsAreTheMemory) {
  const Pieces pieces(2);
  const int before = OpenDescriptors();
  const auto found = Find({{pieces.pointer(), pieces.size_bytes(), "w"}});
  {
    auto fds = devices_->Export({&found[0], &found[1]});
    ASSERT_TRUE(fds.ok()) << fds.status();
    ASSERT_EQ(fds->size(), 2u);
    CUmemGenericAllocationHandle handle = 0;
    ASSERT_CUDA(CU(cuMemImportFromShareableHandle)(
        &handle, reinterpret_cast<void*>(static_cast<intptr_t>((*fds)[1].get())),
        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    ASSERT_CUDA(CU(cuMemRelease)(handle));
  }
  EXPECT_EQ(OpenDescriptors(), before);
}

// The process may have used up its soft limit before it registers a large model.
TEST_F(DevicesTest, TheLimitOfDescriptorsIsRaised) {
  const Pieces pieces(1);
  const auto found = Find({{pieces.pointer(), pieces.size_bytes(), "w"}});
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const DescriptorLimit low(OpenDescriptors());
  EXPECT_TRUE(devices_->Export({&found[0]}).ok());
  rlimit after{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, limit.rlim_max);
}

TEST_F(DevicesTest, WhatHasNoHandleGoesByTheWindow) {
  CUdeviceptr pooled = 0;
  ASSERT_CUDA(CU(cuMemAllocAsync)(&pooled, 1 << 20, nullptr));
  const Pieces pieces(2, /*exportable=*/false);
  const auto found = Find({{pooled, 1 << 20, "a"}, {pieces.pointer(), pieces.size_bytes(), "b"}});
  ASSERT_EQ(found.size(), 3u);
  for (const Allocation& each : found) EXPECT_EQ(each.path, DevicePath::kWindow);
  ASSERT_CUDA(CU(cuMemFreeAsync)(pooled, nullptr));
}

TEST_F(DevicesTest, WrongMemoryIsRefusedByName) {
  int here = 0;
  const auto heap = devices_->Find({{reinterpret_cast<uint64_t>(&here), 4, "lm_head.weight"}}).status();
  EXPECT_EQ(heap.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(BlameOf(heap).reason, "BAD_SHARD");
  EXPECT_THAT(std::string(heap.message()), testing::HasSubstr("lm_head.weight: address 0x"));
  void* pinned = nullptr;
  ASSERT_CUDA(CU(cuMemAllocHost)(&pinned, 4096));
  const auto host = devices_->Find({{reinterpret_cast<uint64_t>(pinned), 4096, "x"}}).status();
  EXPECT_THAT(std::string(host.message()), testing::HasSubstr("register it as KS_HOST"));
  ASSERT_CUDA(CU(cuMemFreeHost)(pinned));
  const Block block(4096);
  const auto past = devices_->Find({{block.pointer(), (1 << 20) + 4096, "y"}}).status();
  EXPECT_EQ(BlameOf(past).reason, "BAD_SHARD") << past;
}

TEST_F(DevicesTest, AnyThreadMayAskAndKeepsItsContext) {
  const Block block(4096);
  std::thread([&] {
    EXPECT_EQ(Find({{block.pointer(), 4096, "w"}}).size(), 1u);
    CUcontext current = nullptr;
    EXPECT_CUDA(CU(cuCtxGetCurrent)(&current));
    EXPECT_EQ(current, nullptr);
  }).join();
}

TEST_F(DevicesTest, AStreamIsMarkedByOneEventThatIsKept) {
  const Block block(4096);
  const auto found = Find({{block.pointer(), 4096, "w"}});
  HeldStream held;
  void* const streams[] = {held.stream()};
  v1::SaveRequest first, second;
  ASSERT_TRUE(devices_->Mark(found, streams, true, &first).ok());
  ASSERT_EQ(first.fences_size(), 1);
  EXPECT_EQ(first.fences(0).gpu(), found[0].gpu);
  EXPECT_EQ(first.fences(0).event().size(), sizeof(CUipcEventHandle));
  EXPECT_EQ(CU(cuStreamQuery)(held.stream()), CUDA_ERROR_NOT_READY) << "nothing was waited for";
  ASSERT_TRUE(devices_->Mark(found, streams, true, &second).ok());
  ASSERT_EQ(second.fences_size(), 1);
  EXPECT_EQ(second.fences(0).event(), first.fences(0).event());
  v1::SaveRequest plain;
  ASSERT_TRUE(devices_->Mark(found, {}, true, &plain).ok());
  ASSERT_EQ(plain.fences_size(), 1) << "the default stream";
  EXPECT_NE(plain.fences(0).event(), first.fences(0).event());
}

TEST_F(DevicesTest, CopiesOutWaitForWhatWasMarked) {
  const Block block(1 << 20);
  const auto found = Find({{block.pointer(), block.size_bytes(), "w"}});
  std::vector<std::byte> window(1 << 20);
  HeldStream held;
  ASSERT_CUDA(CU(cuMemsetD8Async)(block.pointer(), 0x5a, block.size_bytes(), held.stream()));
  v1::SaveRequest request;
  void* const streams[] = {held.stream()};
  ASSERT_TRUE(devices_->Mark(found, streams, false, &request).ok());
  std::thread later([&] { held.Release(); });
  const proto::CopyEntry entry{
      .address = block.pointer() + 16, .size_bytes = 4096, .window_offset_bytes = 100};
  EXPECT_EQ(devices_->Copy({&entry, 1}, found, false, window.data(), window.size()), 0);
  later.join();
  EXPECT_EQ(window[99], std::byte{0});
  EXPECT_EQ(window[100], std::byte{0x5a});
  EXPECT_EQ(window[100 + 4095], std::byte{0x5a});
  EXPECT_EQ(window[100 + 4096], std::byte{0});
  std::memset(window.data(), 0x33, window.size());
  EXPECT_EQ(devices_->Copy({&entry, 1}, found, true, window.data(), window.size()), 0);
  unsigned char back[2] = {};
  ASSERT_CUDA(CU(cuMemcpyDtoH)(back, block.pointer() + 15, 2));
  EXPECT_EQ(back[0], 0x5a);
  EXPECT_EQ(back[1], 0x33);
  devices_->ForgetWindow();
}

TEST_F(DevicesTest, ACopyGoesOnInTheNextPiece) {
  const Pieces pieces(3, /*exportable=*/false);
  const auto found = Find({{pieces.pointer(), pieces.size_bytes(), "w"}});
  for (int i = 0; i < 3; ++i)
    ASSERT_CUDA(CU(cuMemsetD8)(pieces.pointer() + i * pieces.piece_bytes(), 1 + i, pieces.piece_bytes()));
  ASSERT_CUDA(CU(cuCtxSynchronize)());
  std::vector<std::byte> window(pieces.size_bytes());
  proto::CopyEntry entry{.address = pieces.pointer() + 10, .size_bytes = pieces.size_bytes() - 10};
  EXPECT_EQ(devices_->Copy({&entry, 1}, found, false, window.data(), window.size()), 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(window[(i + 1) * pieces.piece_bytes() - 11], std::byte(1 + i)) << i;
  entry.size_bytes += 1;
  EXPECT_EQ(devices_->Copy({&entry, 1}, found, false, window.data(), window.size()), EFAULT);
  devices_->ForgetWindow();
}

TEST_F(DevicesTest, ALoadWaitsForWhatIsQueued) {
  const Block block(4096);
  const auto found = Find({{block.pointer(), 4096, "w"}});
  HeldStream held;
  std::thread later([&] { held.Release(); });
  EXPECT_TRUE(devices_->Synchronize(found).ok());
  EXPECT_CUDA(CU(cuStreamQuery)(held.stream()));
  later.join();
}

TEST_F(DevicesTest, DoctorNamesTheDriver) {
  const DriverFacts facts = LookAtDriver();
  EXPECT_TRUE(facts.works);
  EXPECT_THAT(facts.text, testing::StartsWith("CUDA "));
  EXPECT_THAT(facts.text, testing::HasSubstr("ipc events"));
}

}  // namespace
}  // namespace keepstep::client
