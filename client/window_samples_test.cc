// Samples of GPU memory that goes through the window: an update that ignores the gate fails its save by the tensor's name.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "client/device_session_fixture.h"
#include "client/failure.h"

namespace keepstep::client {
namespace {

constexpr size_t kBytes = 4096;

class WindowSamplesTest : public DeviceSessionTest {
 protected:
  // Two tensors in two groups, in memory that the daemon does not map.
  void StartRegistered() {
    Start({.maps_gpu_memory = false, .on_wait = [](const v1::WaitRequest&, v1::SaveStatus* status) {
             status->set_state(v1::SNAPSHOTTED);
             return FakeAnswer{};
           }});
    blocks_[0] = std::make_unique<Block>(kBytes);
    blocks_[1] = std::make_unique<Block>(kBytes);
    Declared declared;
    const char* const names[] = {"first", "second"};
    for (uint32_t group = 0; group < 2; ++group) {
      Fill(group, 1, nullptr);
      Add(&declared, names[group], blocks_[group]->pointer(), kBytes);
      declared.samples[group];
      declared.device_samples[group] = {SampleOf(names[group], blocks_[group]->pointer(), kBytes, group)};
      declared.gpu_groups.push_back(group);
    }
    ASSERT_CUDA(CU(cuCtxSynchronize)());
    ASSERT_TRUE(Register(declared).ok());
    ASSERT_EQ(client_->session().info().device_paths, "2 allocations by window");
  }

  void TearDown() override {
    client_.reset();
    for (auto& block : blocks_) block.reset();
    DeviceSessionTest::TearDown();
  }

  void Fill(int group, unsigned char value, CUstream stream) {
    ASSERT_CUDA(CU(cuMemsetD8Async)(blocks_[group]->pointer(), value, kBytes, stream));
  }

  void Update(int group, unsigned char value) {
    Fill(group, value, nullptr);
    ASSERT_CUDA(CU(cuCtxSynchronize)());
  }

  uint64_t Save(std::vector<void*> streams = {}) {
    uint64_t number = 0;
    v1::SaveRequest request;
    request.set_step(++step_);
    EXPECT_TRUE(client_->saves().Save(request, streams, After(kLongMs), &number).ok());
    return number;
  }

  // The daemon has the client copy a group's tensor into the window.
  void AskForCopy(int group) {
    const std::vector<proto::CopyEntry> entries = {{blocks_[group]->pointer(), kBytes, 0}};
    proto::Copy head;
    head.count = entries.size();
    daemon_->SendCopy(head, entries);
  }

  void AwaitCopy() {
    const std::vector<std::byte> frame = daemon_->AwaitFrame(proto::FrameKind::kCopyDone);
    proto::CopyDone told;
    std::memcpy(&told, frame.data(), sizeof(told));
    EXPECT_EQ(told.error, 0);
  }

  void Copy(int group) {
    AskForCopy(group);
    AwaitCopy();
  }

  // Both groups are released, and the verdict is out.
  absl::Status Outcome(uint64_t number) {
    for (uint32_t group = 0; group < 2; ++group) {
      daemon_->Release(group, number);
      EXPECT_TRUE(client_->gate().Wait(group, After(kLongMs)).ok());
    }
    v1::SaveStatus status;
    (void)client_->saves().Wait(number, v1::SNAPSHOTTED, After(kLongMs), &status);
    return status.has_failure() ? FromFailure(status.failure()) : absl::OkStatus();
  }

  int64_t step_ = 0;
  std::unique_ptr<Block> blocks_[2];
};

TEST_F(WindowSamplesTest, AnUpdateBeforeItsGroupIsReleasedFailsTheSave) {
  StartRegistered();
  const uint64_t number = Save();
  Copy(0);
  Copy(1);
  Update(1, 2);
  const absl::Status status = Outcome(number);
  EXPECT_EQ(BlameOf(status).reason, "UPDATED_DURING_SAVE") << status;
  EXPECT_THAT(std::string(status.message()), testing::StartsWith("second changed"));
}

TEST_F(WindowSamplesTest, AnUpdateOfAGroupThatIsReleasedIsNone) {
  StartRegistered();
  const uint64_t number = Save();
  Copy(0);
  daemon_->Release(0, number);
  ASSERT_TRUE(client_->gate().Wait(0, After(kLongMs)).ok());
  Update(0, 2);
  Copy(1);
  EXPECT_TRUE(Outcome(number).ok());
}

// What the program had queued before the save is part of it.
TEST_F(WindowSamplesTest, SamplesComeAfterWhatIsMarked) {
  StartRegistered();
  HeldStream held;
  Fill(0, 2, held.stream());
  const uint64_t number = Save({held.stream()});
  AskForCopy(0);
  held.Release();
  AwaitCopy();
  EXPECT_EQ(daemon_->window()[0], std::byte{2});
  Copy(1);
  EXPECT_TRUE(Outcome(number).ok());
}

TEST_F(WindowSamplesTest, EachSaveHasItsOwn) {
  StartRegistered();
  for (unsigned char value = 2; value < 8; ++value) {
    Update(0, value);
    const uint64_t number = Save();
    Copy(0);
    Copy(1);
    EXPECT_TRUE(Outcome(number).ok());
  }
}

}  // namespace
}  // namespace keepstep::client
