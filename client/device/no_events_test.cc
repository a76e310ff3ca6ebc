// A driver whose handles and events do not cross processes: saves wait for the stream, memory goes by the
// window.

#include <gtest/gtest.h>

#include <thread>

#include "client/device/devices.h"
#include "client/device/test_memory.h"

namespace keepstep::client {
namespace {

class NoEventsTest : public fake_cuda::DriverTest {
 protected:
  void TearDown() override {
    devices_.reset();
    DriverTest::TearDown();
  }
  std::unique_ptr<Devices> devices_ = std::make_unique<Devices>();
};

TEST_F(NoEventsTest, LegacyMemoryGoesByTheWindowAndNothingIsWaitedFor) {
  const Block block(4096);
  const auto found = devices_->Find({{block.pointer(), 4096, "w"}}).value();
  EXPECT_EQ(found[0].path, DevicePath::kWindow);
  HeldStream held;
  void* const streams[] = {held.stream()};
  v1::SaveRequest request;
  ASSERT_TRUE(devices_->Mark(found, streams, true, &request).ok());
  EXPECT_EQ(request.fences_size(), 0);
  EXPECT_EQ(CU(cuStreamQuery)(held.stream()), CUDA_ERROR_NOT_READY);
}

TEST_F(NoEventsTest, MemoryThatTheDaemonMapsIsWaitedForBeforeTheAsk) {
  const Pieces pieces(1);
  const auto found = devices_->Find({{pieces.pointer(), pieces.size_bytes(), "w"}}).value();
  ASSERT_EQ(found[0].path, DevicePath::kVmm);
  HeldStream held;
  void* const streams[] = {held.stream()};
  v1::SaveRequest request;
  std::thread later([&] { held.Release(); });
  ASSERT_TRUE(devices_->Mark(found, streams, true, &request).ok());
  EXPECT_EQ(request.fences_size(), 0);
  EXPECT_CUDA(CU(cuStreamQuery)(held.stream()));
  later.join();
}

}  // namespace
}  // namespace keepstep::client
