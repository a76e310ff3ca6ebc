// A session that holds GPU memory, against the scripted daemon and the driver that the loader finds
// (tests/fake_cuda): what is handed over, in which order, again after a restart, and what goes by the window.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <vector>

#include "client/device_session_fixture.h"
#include "client/failure.h"
#include "tests/fake_cuda/peer.h"

namespace keepstep::client {
namespace {

using fake_cuda::Peer;

// Opens an event of another process and says whether what it marks is done.
PEER(event_looker) {
  fake_cuda::StartGpu();
  CUevent event = nullptr;
  REQUIRE(CU(cuIpcOpenEventHandle)(&event, channel.Receive<CUipcEventHandle>()) == CUDA_SUCCESS);
  channel.Send(CU(cuEventQuery)(event));
  REQUIRE(channel.Receive<char>() == 'q');
  channel.Send(CU(cuEventQuery)(event));
}

TEST_F(DeviceSessionTest, AnAllocationIsNamedOnceForAllItsTensors) {
  Start();
  const Block block(1 << 20), other(4096);
  Declared declared;
  Add(&declared, "a", block.pointer(), 1024);
  Add(&declared, "b", block.pointer() + 1024, 2048);
  Add(&declared, "c", other.pointer(), 4096);
  ASSERT_TRUE(Register(declared).ok());
  const v1::RegisterRequest request = LastRegistered();
  ASSERT_EQ(request.memory_size(), 2);
  EXPECT_EQ(request.buffers_size(), 3);
  EXPECT_EQ(request.buffers(1).device().address(), block.pointer() + 1024);
  EXPECT_EQ(request.memory(0).ipc().size(), sizeof(CUipcMemHandle));
  EXPECT_EQ(request.memory(0).gpu().size(), 16u);
  EXPECT_EQ(request.memory(0).size_bytes() + request.memory(1).size_bytes(), (1 << 20) + 4096);
  EXPECT_EQ(client_->session().info().device_paths, "2 allocations by ipc");
  EXPECT_EQ(client_->session().info().transfer, proto::Transfer::kPull);
}

// Thousands of descriptors: in frames of what the kernel takes, closed once they are sent, and sent once.
TEST_F(DeviceSessionTest, AnExpandableSegmentOfFiveThousandPieces) {
  constexpr int kPieces = 5000;
  Start();
  const DescriptorLimit limit(3 *
                              kPieces);  // the fake driver's memory, and the scripted daemon's share of it
  const Pieces pieces(kPieces);
  const int before = OpenDescriptors();
  Declared declared;
  Add(&declared, "a", pieces.pointer(), pieces.size_bytes() - 1);
  ASSERT_TRUE(Register(declared).ok());
  const auto numbers = Numbers(LastRegistered());
  ASSERT_EQ(numbers.size(), kPieces);
  ExpectGiven(numbers);
  EXPECT_EQ(OpenDescriptors(), before + kPieces)
      << "the daemon's, which lives in this process, and no others";
  EXPECT_EQ(client_->session().info().device_paths, "5000 allocations by vmm");

  ASSERT_TRUE(Register(declared).ok());
  EXPECT_EQ(Numbers(LastRegistered()), numbers) << "what stays registered keeps its number";
  EXPECT_EQ(daemon_->descriptors().size(), kPieces);
}

TEST_F(DeviceSessionTest, OnlyNewPiecesAreHandedOver) {
  Start();
  Pieces pieces(3);
  Declared all, two;
  Add(&all, "a", pieces.pointer(), pieces.size_bytes());
  Add(&two, "a", pieces.pointer(), 2 * pieces.piece_bytes());
  ASSERT_TRUE(Register(all).ok());
  const auto first = Numbers(LastRegistered());
  ASSERT_TRUE(Register(two).ok());
  EXPECT_EQ(Numbers(LastRegistered()), (std::vector<uint64_t>{first[0], first[1]}));
  pieces.Replace(0);
  ASSERT_TRUE(Register(all).ok());
  const auto last = Numbers(LastRegistered());
  EXPECT_GT(last[0], first[2]) << "other memory at the same address";
  EXPECT_EQ(last[1], first[1]);
  EXPECT_GT(last[2], first[2]) << "the daemon has closed what was not registered in between";
  ExpectGiven(last);
}

TEST_F(DeviceSessionTest, ARefusedRegistrationLeavesNoNumbers) {
  Start();
  const Pieces pieces(2);
  Declared declared;
  Add(&declared, "a", pieces.pointer(), pieces.size_bytes());
  {
    std::lock_guard lock(mu_);
    refusals_ = 1;
  }
  EXPECT_EQ(BlameOf(Register(declared)).reason, "TOO_MANY_TENSORS");
  ASSERT_TRUE(Register(declared).ok());
  EXPECT_EQ(Numbers(LastRegistered()), (std::vector<uint64_t>{3, 4}));
}

TEST_F(DeviceSessionTest, ARestartedDaemonIsOfferedEverythingAgain) {
  Start();
  const Pieces pieces(2);
  const Block block(4096);
  Declared declared;
  Add(&declared, "a", pieces.pointer(), pieces.size_bytes());
  Add(&declared, "b", block.pointer(), 4096);
  ASSERT_TRUE(Register(declared).ok());
  EXPECT_EQ(client_->session().info().device_paths, "1 allocation by ipc, 2 by vmm");
  const uint64_t generation = LastRegistered().generation();
  daemon_->Stop();
  daemon_->Start();
  std::vector<uint64_t> numbers;
  // The connection's end is noticed by a thread of its own: this call waits for the next one, or is made
  // again.
  while (LastRegistered().generation() == generation) (void)client_->Steps(After(kLongMs));
  const v1::RegisterRequest again = LastRegistered();
  for (const v1::DeviceMemory& memory : again.memory()) {
    if (memory.has_descriptor_number()) numbers.push_back(memory.descriptor_number());
  }
  EXPECT_EQ(numbers, (std::vector<uint64_t>{3, 4}));
  ExpectGiven(numbers);
  EXPECT_EQ(again.memory_size(), 3);
}

// To whoever opens it first, an event that was not recorded yet has nothing to wait for.
TEST_F(DeviceSessionTest, TheFenceIsRecordedBeforeTheAsk) {
  Peer looker("event_looker");
  std::atomic<int> fences{0};
  CUresult at_ask = CUDA_ERROR_UNKNOWN;
  Start({.on_ask = [&](const v1::SaveRequest& request) {
    fences = request.fences_size();
    CUipcEventHandle handle;
    if (request.fences_size() != 1 || request.fences(0).event().size() != sizeof(handle)) return;
    std::memcpy(&handle, request.fences(0).event().data(), sizeof(handle));
    looker.channel().Send(handle);
    at_ask = looker.channel().Receive<CUresult>();
  }});
  const Block block(4096);
  Declared declared;
  Add(&declared, "a", block.pointer(), 4096);
  ASSERT_TRUE(Register(declared).ok());
  HeldStream held;
  void* const streams[] = {held.stream()};
  uint64_t number = 0;
  v1::SaveRequest request;
  ASSERT_TRUE(client_->saves().Save(request, streams, After(kLongMs), &number).ok());
  ASSERT_EQ(fences, 1);
  EXPECT_EQ(at_ask, CUDA_ERROR_NOT_READY) << "recorded behind what the stream still has to do";
  EXPECT_FALSE(client_->gate().IsOpen(0)) << "nothing is sampled, and the gate is shut all the same";
  held.Release();
  ASSERT_CUDA(CU(cuStreamSynchronize)(held.stream()));
  looker.channel().Send('q');
  EXPECT_EQ(looker.channel().Receive<CUresult>(), CUDA_SUCCESS);
  daemon_->Release(0, number);
  EXPECT_TRUE(client_->gate().Wait(0, After(kLongMs)).ok());
}

TEST_F(DeviceSessionTest, ADaemonThatMapsNothingGetsAWindow) {
  Start({.maps_gpu_memory = false});
  ASSERT_EQ(client_->session().info().transfer, proto::Transfer::kPull);
  const Block block(8192);
  Declared declared;
  Add(&declared, "a", block.pointer(), 8192);
  ASSERT_TRUE(Register(declared).ok());
  EXPECT_EQ(client_->session().info().transfer, proto::Transfer::kWindow);
  EXPECT_EQ(client_->session().info().device_paths, "1 allocation by window");
  const v1::RegisterRequest registered = LastRegistered();
  EXPECT_EQ(registered.memory_size(), 0);
  EXPECT_EQ(registered.buffers(0).host().address(), block.pointer())
      << "to the daemon, memory like any other";

  HeldStream held;
  ASSERT_CUDA(CU(cuMemsetD8Async)(block.pointer(), 0x5a, 8192, held.stream()));
  void* const streams[] = {held.stream()};
  uint64_t number = 0;
  ASSERT_TRUE(client_->saves().Save({}, streams, After(kLongMs), &number).ok());
  const auto copy = [&](bool into_client, std::vector<proto::CopyEntry> entries) {
    proto::Copy head;
    head.into_client = into_client;
    head.count = entries.size();
    daemon_->SendCopy(head, entries);
  };
  const auto done = [&] {
    const std::vector<std::byte> frame = daemon_->AwaitFrame(proto::FrameKind::kCopyDone);
    proto::CopyDone told;
    std::memcpy(&told, frame.data(), sizeof(told));
    return told.error;
  };
  copy(false, {{block.pointer() + 8, 4096, 500}});
  held.Release();
  EXPECT_EQ(done(), 0);
  EXPECT_EQ(daemon_->window()[500], std::byte{0x5a})
      << "what the stream had written when it reached the save";
  EXPECT_EQ(daemon_->window()[500 + 4095], std::byte{0x5a});
  copy(false, {{block.pointer() + 8, 8192, 0}});
  EXPECT_EQ(done(), EFAULT) << "past what is registered";
  copy(true, {{block.pointer(), 16, 0}});
  EXPECT_EQ(done(), EACCES) << "no load is under way";
}

// Memory of both kinds in one registration: each goes by the best path that it has.
TEST_F(DeviceSessionTest, OnlyWhatHasNoHandleGoesByTheWindow) {
  Start();
  const Block block(4096);
  const Pieces pieces(2, /*exportable=*/false), shared(1);
  Declared declared;
  Add(&declared, "a", block.pointer(), 4096);
  Add(&declared, "b", pieces.pointer(), pieces.size_bytes());
  Add(&declared, "c", shared.pointer(), shared.size_bytes());
  ASSERT_TRUE(Register(declared).ok());
  EXPECT_EQ(client_->session().info().transfer, proto::Transfer::kWindow);
  EXPECT_EQ(client_->session().info().device_paths, "1 allocation by ipc, 1 by vmm, 2 by window");
  const v1::RegisterRequest registered = LastRegistered();
  EXPECT_EQ(registered.memory_size(), 2);
  EXPECT_TRUE(registered.buffers(0).has_device());
  EXPECT_TRUE(registered.buffers(1).has_host());
  EXPECT_TRUE(registered.buffers(2).has_device());
}

// A daemon in another container: handles that are good here lead nowhere there.
TEST_F(DeviceSessionTest, WhatTheDaemonCannotMapGoesByTheWindow) {
  Start();
  {
    std::lock_guard lock(mu_);
    refusal_ = {kFailedPrecondition, "BAD_HANDLE"};
    refusals_ = 2;  // by pull, and again on the connection with a window
  }
  const Block block(4096);
  Declared declared;
  Add(&declared, "a", block.pointer(), 4096);
  ASSERT_TRUE(Register(declared).ok());
  EXPECT_EQ(client_->session().info().device_paths, "1 allocation by window");
  EXPECT_FALSE(client_->session().info().maps_gpu_memory);
  ASSERT_TRUE(Register(declared).ok()) << "it is not asked again on this connection";
  EXPECT_EQ(LastRegistered().memory_size(), 0);
}

TEST_F(DeviceSessionTest, AWindowThatIsNeededAndForbidden) {
  Start({.maps_gpu_memory = false}, proto::Transfer::kPull);
  const Block block(4096);
  Declared declared;
  Add(&declared, "a", block.pointer(), 4096);
  const absl::Status status = Register(declared);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(BlameOf(status).reason, "NEEDS_WINDOW");
}

TEST_F(DeviceSessionTest, AWrongPointerIsRefusedAndTheOldRegistrationStands) {
  Start();
  const Block block(4096);
  Declared good, bad;
  Add(&good, "a", block.pointer(), 4096);
  ASSERT_TRUE(Register(good).ok());
  Add(&bad, "model.b", 0x1000, 4096);
  const absl::Status status = Register(bad);
  EXPECT_EQ(BlameOf(status).reason, "BAD_SHARD");
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("model.b: address 0x1000 is not GPU memory"));
  uint64_t number = 0;
  EXPECT_TRUE(client_->saves().Save({}, {}, After(kLongMs), &number).ok());
}

}  // namespace
}  // namespace keepstep::client
