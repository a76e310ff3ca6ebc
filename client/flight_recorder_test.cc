// The flight record as the daemon reads it, on the driver that the loader finds (tests/fake_cuda): what counts as whole
// is what the memory holds, wherever the process dies.

#include "client/flight_recorder.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <numeric>

#include "client/device/test_memory.h"
#include "client/failure.h"
#include "proto/flight_reader.h"

namespace keepstep::client {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr size_t kBytes = 1 << 20;
constexpr uint64_t kGeneration = 7;

class FlightRecorderTest : public fake_cuda::DriverTest {
 protected:
  void SetUp() override {
    DriverTest::SetUp();
    auto made = FlightRecorder::Make(&devices_);
    ASSERT_TRUE(made.ok()) << made.status();
    recorder_ = *std::move(made);
  }

  void Add(uint32_t group, CUdeviceptr pointer, size_t size_bytes) {
    v1::Buffer& buffer = AddBuffer(group);
    buffer.mutable_device()->set_address(pointer);
    buffer.mutable_device()->set_size_bytes(static_cast<int64_t>(size_bytes));
  }
  void AddHost(uint32_t group, const void* data, size_t size_bytes) {
    v1::Buffer& buffer = AddBuffer(group);
    buffer.mutable_host()->set_address(reinterpret_cast<uint64_t>(data));
    buffer.mutable_host()->set_size_bytes(static_cast<int64_t>(size_bytes));
  }
  v1::Buffer& AddBuffer(uint32_t group) {
    const auto id = static_cast<uint32_t>(declared_.buffers.size());
    v1::Shard& shard = declared_.shards.emplace_back();
    shard.mutable_meta()->set_fqn("t" + std::to_string(id));
    shard.set_buffer_id(id);
    shard.set_group(group);
    declared_.buffers.emplace_back().set_id(id);
    return declared_.buffers.back();
  }
  void Register(bool by_window = false, absl::string_view refusal = "") {
    ASSERT_TRUE(Locate(&devices_, &declared_).ok());
    recorder_->Registered(declared_, kGeneration, by_window, refusal);
  }

  // An update of group 0 on `stream`, then the note of `step`.
  void Update(CUstream stream, int64_t step) {
    recorder_->Begin(0, stream);
    ASSERT_TRUE(recorder_->Done(0, stream).ok());
    Note(step);
  }
  void Note(int64_t step) {
    v1::SaveRequest request;
    request.set_step(step);
    request.add_tags("of " + std::to_string(step));
    ASSERT_TRUE(recorder_->Note(request).ok());
  }

  // The step at which the memory is whole, as the daemon would see it now; -1 and why_: none.
  int64_t Whole(uint64_t generation = kGeneration) {
    EXPECT_TRUE(proto::CheckFlightRecord(recorder_->fd()).ok());
    auto read = proto::ReadFlightRecord(recorder_->fd());
    EXPECT_TRUE(read.ok()) << read.status();
    if (!read.ok()) return -2;
    record_ = *std::move(read);
    const proto::FlightNote* const note = proto::WholeNote(record_, generation, &why_);
    if (note == nullptr) return -1;
    v1::SaveRequest request;
    EXPECT_TRUE(request.ParseFromString(note->request));
    EXPECT_EQ(request.step(), note->slot.step);
    EXPECT_EQ(request.tags(0), "of " + std::to_string(note->slot.step));
    host_ = note->host;
    return note->slot.step;
  }

  Devices devices_;
  std::unique_ptr<FlightRecorder> recorder_;
  Declared declared_;
  proto::FlightRecord record_;
  std::string why_, host_;
};

TEST_F(FlightRecorderTest, AStepIsWholeOnceItsUpdateHasRun) {
  const Block block(kBytes);
  int64_t count = 5;
  Add(0, block.pointer(), kBytes);
  AddHost(0, &count, sizeof(count));
  Register();
  EXPECT_EQ(Whole(), -1);
  EXPECT_EQ(why_, "it had noted no step");
  HeldStream other;
  other.Release();
  for (int64_t step = 1; step <= 5; ++step) {
    count = step * 100;
    Update(other.stream(), step);
    EXPECT_CUDA(CU(cuStreamSynchronize)(other.stream()));
    EXPECT_EQ(Whole(), step) << why_;
    EXPECT_EQ(host_, std::string(reinterpret_cast<const char*>(&count), sizeof(count)));
  }
  EXPECT_TRUE(recorder_->info().on);
  EXPECT_EQ(recorder_->info().step, 5);
  EXPECT_EQ(Whole(kGeneration + 1), -1);
  EXPECT_EQ(why_, "it had noted no step since it registered");
}

// The processor is a step ahead of the GPU: what it has counted has not happened, and the memory is as it was.
TEST_F(FlightRecorderTest, AnUpdateThatIsQueuedAndHasNotRunLeavesTheStepBefore) {
  const Block block(kBytes);
  Add(0, block.pointer(), kBytes);
  Register();
  HeldStream first, held;
  first.Release();
  Update(first.stream(), 1);
  EXPECT_CUDA(CU(cuStreamSynchronize)(first.stream()));
  Update(held.stream(), 2);
  EXPECT_EQ(Whole(), 1) << why_;
  held.Release();
  EXPECT_CUDA(CU(cuStreamSynchronize)(held.stream()));
  EXPECT_EQ(Whole(), 2) << why_;
}

TEST_F(FlightRecorderTest, AnUpdateThatIsHalfRunIsNoStep) {
  const Block block(kBytes);
  Add(0, block.pointer(), kBytes);
  Register();
  HeldStream first;
  first.Release();
  Update(first.stream(), 1);
  recorder_->Begin(0, first.stream());
  EXPECT_CUDA(CU(cuStreamSynchronize)(first.stream()));
  EXPECT_EQ(Whole(), -1);
  EXPECT_EQ(why_, "an update of group 0 was half run");
  ASSERT_TRUE(recorder_->Done(0, first.stream()).ok());
  EXPECT_CUDA(CU(cuStreamSynchronize)(first.stream()));
  EXPECT_EQ(Whole(), -1) << "the update is whole, and no step was noted after it";
  EXPECT_THAT(why_, HasSubstr("had done 2 updates"));
}

// Two steps without a wait between: the older slot is gone when its update is the last that ran.
TEST_F(FlightRecorderTest, ANoteThatWasCutOffIsNone) {
  const Block block(kBytes);
  Add(0, block.pointer(), kBytes);
  std::vector<int64_t> host(kBytes / 8);
  std::iota(host.begin(), host.end(), 0);
  AddHost(0, host.data(), kBytes);
  Register();
  HeldStream stream;
  stream.Release();
  Update(stream.stream(), 1);
  Update(stream.stream(), 2);
  EXPECT_CUDA(CU(cuStreamSynchronize)(stream.stream()));
  EXPECT_EQ(Whole(), 2);
  // Every byte of the newer slot counts.
  void* const memory = mmap(nullptr, proto::kFlightRecordBytes, PROT_READ | PROT_WRITE, MAP_SHARED, recorder_->fd(), 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* const slot = static_cast<std::byte*>(memory) + proto::FlightSlotOffset(2 % proto::kFlightSlots);
  for (const size_t at : {size_t{0}, offsetof(proto::FlightSlot, step), offsetof(proto::FlightSlot, expected),
                          offsetof(proto::FlightSlot, host_bytes), sizeof(proto::FlightSlot), size_t{kBytes}}) {
    slot[at] ^= std::byte{1};
    EXPECT_EQ(Whole(), -1) << at;
    slot[at] ^= std::byte{1};
  }
  EXPECT_EQ(Whole(), 2);
  munmap(memory, proto::kFlightRecordBytes);
}

TEST_F(FlightRecorderTest, OfSeveralGroupsEachCounts) {
  const Block first(kBytes), second(kBytes);
  Add(0, first.pointer(), kBytes);
  Add(9, second.pointer(), kBytes);
  Register();
  HeldStream stream, held;
  stream.Release();
  recorder_->Begin(9, stream.stream());
  ASSERT_TRUE(recorder_->Done(9, stream.stream()).ok());
  Update(stream.stream(), 1);
  EXPECT_CUDA(CU(cuStreamSynchronize)(stream.stream()));
  EXPECT_EQ(Whole(), 1) << why_;
  recorder_->Begin(9, held.stream());
  ASSERT_TRUE(recorder_->Done(9, held.stream()).ok());
  Update(stream.stream(), 2);
  EXPECT_CUDA(CU(cuStreamSynchronize)(stream.stream()));
  EXPECT_EQ(Whole(), -1) << "group 0 is at step 2, group 9 at step 1";
}

TEST_F(FlightRecorderTest, WhatCannotBeProvedIsRefusedWithAReason) {
  const Block block(kBytes);
  Add(0, block.pointer(), kBytes);
  const auto refused = [&] {
    Note(1);
    EXPECT_EQ(Whole(), -1);
    EXPECT_EQ(recorder_->info().why_not, why_);
    EXPECT_FALSE(recorder_->info().on);
    return why_;
  };
  Register(/*by_window=*/true);
  EXPECT_THAT(refused(), HasSubstr("goes by the window"));
  Register(false, "its probe failed");
  EXPECT_EQ(refused(), "its probe failed");
  Register();
  Note(1);
  EXPECT_EQ(Whole(), 1) << "what was registered since counts";
  recorder_->Unordered(5);  // a group of no GPU memory
  EXPECT_TRUE(recorder_->info().on);
  recorder_->Unordered(0);
  EXPECT_THAT(refused(), HasSubstr("without a stream"));
  Register();
  EXPECT_THAT(refused(), HasSubstr("without a stream")) << "for good";
}

TEST_F(FlightRecorderTest, StepsWithoutAnAnnouncedUpdateAreRefused) {
  const Block block(kBytes);
  Add(0, block.pointer(), kBytes);
  Register();
  HeldStream stream;
  stream.Release();
  Update(stream.stream(), 1);
  Note(1);  // the same step again
  EXPECT_TRUE(recorder_->info().on);
  Note(2);
  EXPECT_EQ(recorder_->info().why_not, "no update was announced between steps 1 and 2");
}

// What a load has half filled, or filled with an older step, must not be taken for the step noted before it.
TEST_F(FlightRecorderTest, ALoadMakesWhatWasNotedVoid) {
  const Block block(kBytes);
  Add(0, block.pointer(), kBytes);
  Register();
  HeldStream stream;
  stream.Release();
  Update(stream.stream(), 1);
  Update(stream.stream(), 2);
  EXPECT_CUDA(CU(cuStreamSynchronize)(stream.stream()));
  recorder_->Forget();
  EXPECT_EQ(Whole(), -1);
  EXPECT_EQ(why_, "it had noted no step");
  HeldStream held;
  Update(held.stream(), 2);
  EXPECT_EQ(Whole(), -1) << "the note before the load is of as many updates as are done";
  held.Release();
  EXPECT_CUDA(CU(cuStreamSynchronize)(held.stream()));
  EXPECT_EQ(Whole(), 2) << why_;
}

TEST_F(FlightRecorderTest, TooMuchHostMemoryIsRefused) {
  void* const large = mmap(nullptr, proto::kMaxFlightHostBytes + 1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(large, MAP_FAILED);
  AddHost(0, large, proto::kMaxFlightHostBytes);
  Register();
  Note(1);
  EXPECT_EQ(Whole(), 1) << why_;
  declared_ = Declared();
  AddHost(0, large, proto::kMaxFlightHostBytes + 1);
  Register();
  EXPECT_THAT(recorder_->info().why_not, HasSubstr("67108865 bytes of host memory"));
  munmap(large, proto::kMaxFlightHostBytes + 1);
}

TEST_F(FlightRecorderTest, MistakesAreTold) {
  EXPECT_EQ(BlameOf(recorder_->Note(v1::SaveRequest())).reason, "NOTHING_REGISTERED");
  const Block block(kBytes);
  Add(0, block.pointer(), kBytes);
  Register();
  EXPECT_EQ(BlameOf(recorder_->Done(0, nullptr)).reason, "NO_UPDATE");
  EXPECT_EQ(BlameOf(recorder_->Done(proto::kMaxGroups, nullptr)).reason, "BAD_GROUP");
  EXPECT_TRUE(recorder_->Done(3, nullptr).ok()) << "a group without GPU memory";
}

// A stream that wrote to memory that is pinned no more would end the program's context.
TEST_F(FlightRecorderTest, ARecorderThatGoesLeavesItsPageToTheStreams) {
  const Block block(kBytes);
  Add(0, block.pointer(), kBytes);
  Register();
  HeldStream held;
  Update(held.stream(), 1);
  recorder_.reset();
  held.Release();
  EXPECT_CUDA(CU(cuStreamSynchronize)(held.stream()));
}

TEST_F(FlightRecorderTest, AForkedChildLeavesItAlone) {
  int64_t count = 1;
  AddHost(0, &count, sizeof(count));
  Register();
  Note(1);
  const pid_t child = fork();
  if (child == 0) _exit(0);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(Whole(), 1);
}

TEST(FlightReaderTest, WhatIsNoRecordIsRefused) {
  const int plain = memfd_create("plain", MFD_CLOEXEC);
  EXPECT_FALSE(proto::CheckFlightRecord(plain).ok());
  const int small = memfd_create("small", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(fcntl(small, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  EXPECT_FALSE(proto::CheckFlightRecord(small).ok());
  EXPECT_FALSE(proto::ReadFlightRecord(small).ok()) << "no byte to read";
  const int unsealed = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(unsealed, proto::kFlightRecordBytes), 0);
  EXPECT_FALSE(proto::CheckFlightRecord(unsealed).ok());
  EXPECT_FALSE(proto::ReadFlightRecord(unsealed).ok()) << "all zero";
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  EXPECT_FALSE(proto::CheckFlightRecord(pipes[0]).ok());
  for (const int fd : {plain, small, unsealed, pipes[0], pipes[1]}) close(fd);
}

}  // namespace
}  // namespace keepstep::client
