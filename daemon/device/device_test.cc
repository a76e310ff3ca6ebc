// Hub, mappings and port against workers of their own, with trainers in further processes: on the fake driver, or by
// hand on a GPU's own (without LD_LIBRARY_PATH; then the tests of faults skip).

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <future>
#include <random>
#include <thread>

#include "daemon/device/test_fixture.h"
#include "daemon/error.h"
#include "tests/fake_cuda/counters.h"

namespace keepstep::daemon {
namespace {

using namespace std::chrono_literals;

TEST_F(DeviceTest, ReadsAndWritesAnAllocation) {
  Start();
  const DeclaredMemory memory = trainer_->Allocate(3 * kMiB, 7);
  const auto port = Port(Open({memory}));
  ExpectPattern(*port, memory, 7);
  auto buffer = *pool_->Acquire(cancel_);
  std::fill_n(buffer.data(), 1000, std::byte{0x5a});
  ASSERT_TRUE(port->Write({{memory.address + 5, buffer.data(), 1000}}, cancel_).ok());
  const std::vector<uint8_t> there = trainer_->Read(memory);
  for (int64_t i = 0; i < 2000; ++i) ASSERT_EQ(there[i], i < 5 || i >= 1005 ? PatternByte(7, i) : 0x5a) << i;
}

// A gather reads through scratch memory of its own, more of it than a bounce slot holds.
TEST_F(DeviceTest, MemoryOutsideThePoolGoesByBounce) {
  Start();
  const DeclaredMemory memory = trainer_->Allocate(3 * kMiB, 9);
  const auto port = Port(Open({memory}));
  std::vector<std::byte> scratch(3 * kMiB);
  std::vector<MemoryRun> runs;
  for (int64_t at = 0; at < 3 * kMiB; at += kMiB + 4096)
    runs.push_back({memory.address + at, scratch.data() + at, std::min(kMiB + 4096, 3 * kMiB - at)});
  ASSERT_TRUE(port->Read(runs, cancel_).ok());
  for (int64_t i = 0; i < 3 * kMiB; i += 331) ASSERT_EQ(static_cast<uint8_t>(scratch[i]), PatternByte(9, i)) << i;
  for (std::byte& byte : scratch) byte ^= std::byte{0xff};
  ASSERT_TRUE(port->Write(runs, cancel_).ok());
  const std::vector<uint8_t> there = trainer_->Read(memory);
  for (int64_t i = 0; i < 3 * kMiB; i += 331) ASSERT_EQ(there[i], static_cast<uint8_t>(~PatternByte(9, i))) << i;
}

// A tensor of an expandable segment lies over several pieces.
TEST_F(DeviceTest, ARunCrossesPieces) {
  Start();
  std::vector<DeclaredMemory> pieces;
  for (uint32_t i = 0; i < 3; ++i) {
    pieces.push_back(HandOver(kPieceBytes, i, /*seed=*/20 + i));
  }
  const auto port = Port(Open(pieces));
  EXPECT_EQ(Held(counters_, fake_cuda::kVmmMappings), 3 + 3);  // the trainer's, and the worker's
  std::vector<std::byte> into(2 * kPieceBytes);
  const uint64_t begin = pieces[0].address + kPieceBytes / 2;
  ASSERT_TRUE(port->Read({{begin, into.data(), static_cast<int64_t>(into.size())}}, cancel_).ok());
  for (uint64_t i = 0; i < into.size(); i += 499) {
    const uint64_t at = kPieceBytes / 2 + i;
    ASSERT_EQ(static_cast<uint8_t>(into[i]), PatternByte(20 + at / kPieceBytes, at % kPieceBytes)) << i;
  }
}

// What the trainer has queued before the save, and the GPU has not run yet, belongs to the saved state.
TEST_F(DeviceTest, AReadComesAfterItsFence) {
  Start();
  const DeclaredMemory memory = trainer_->Allocate(kMiB, 1);
  const auto table = Open({memory});
  const Fence fence = trainer_->QueueFillBehindGate(memory, 2);
  const auto port = Port(table, {fence});
  auto reading = std::async(std::launch::async, [&] { ExpectPattern(*port, memory, 2); });
  ExpectPattern(*Port(table), memory, 1);  // by the same worker meanwhile: it is the fence that holds the other up
  EXPECT_EQ(reading.wait_for(0s), std::future_status::timeout);
  trainer_->Release();
  reading.get();
}

TEST_F(DeviceTest, AFenceThatIsNeverReachedCanBeCancelled) {
  Start();
  const DeclaredMemory memory = trainer_->Allocate(kMiB, 1);
  const auto port = Port(Open({memory}), {trainer_->QueueFillBehindGate(memory, 2)});
  const int64_t events = Held(counters_, fake_cuda::kEvents);
  Cancellation cancel;
  auto buffer = *pool_->Acquire(cancel_);
  auto reading = std::async(std::launch::async, [&] {
    return port->Read({{memory.address, buffer.data(), 4096}}, cancel);
  });
  while (Held(counters_, fake_cuda::kEvents) == events) std::this_thread::yield();
  cancel.Cancel(absl::AbortedError("the save is over"));
  EXPECT_EQ(reading.get(), absl::AbortedError("the save is over"));
  while (Held(counters_, fake_cuda::kEvents) > events) std::this_thread::yield();  // the driver is not asked for ever
  trainer_->Release();
}

// The wait for a trainer's GPU has no limit, but the worker must answer meanwhile.
TEST_F(DeviceTest, AWorkerThatHangsWhileAFenceIsAwaitedIsReplaced) {
  Start("cuEventQuery:3:hang:once", {.stall = 1s});
  const DeclaredMemory memory = trainer_->Allocate(kMiB, 1);
  const auto table = Open({memory});
  std::vector<uint8_t> bytes;
  const absl::Status status = Read(*Port(table, {trainer_->QueueFillBehindGate(memory, 2)}), memory, 0, 4096, &bytes);
  EXPECT_EQ(ReasonOf(status), "DEVICE_STUCK") << status;
  trainer_->Release();
  const Fence next = trainer_->QueueFillBehindGate(memory, 3);
  trainer_->Release();
  ExpectPattern(*Port(table, {next}), memory, 3);
}

// A save that is late must not read what the trainer may have freed.
TEST_F(DeviceTest, WhatWasTakenBackIsNotRead) {
  Start();
  const DeclaredMemory first = trainer_->Allocate(kMiB, 1), second = trainer_->Allocate(kMiB, 2);
  const auto old_port = Port(Open({std::min(first, second, [](auto& a, auto& b) { return a.address < b.address; }),
                                   std::max(first, second, [](auto& a, auto& b) { return a.address < b.address; })}));
  const auto table = Open({second});
  session_->CloseAllBut(table.get());
  EXPECT_EQ(Mappings(), 1);
  trainer_->Free(first);
  std::vector<uint8_t> bytes;
  const absl::Status status = Read(*old_port, first, 0, 4096, &bytes);
  EXPECT_EQ(ReasonOf(status), "MEMORY_TAKEN_BACK") << status;
  EXPECT_NE(status.message().find("layer.weight"), std::string::npos) << status;
  ExpectPattern(*old_port, second, 2);
}

TEST_F(DeviceTest, AnAddressUsedAgainIsTheNewMemory) {
  Start();
  const DeclaredMemory first = trainer_->Allocate(kMiB, 1);
  ExpectPattern(*Port(Open({first})), first, 1);
  session_->CloseAllBut(nullptr);
  EXPECT_EQ(Mappings(), 0);
  trainer_->Free(first);
  const DeclaredMemory again = trainer_->Allocate(kMiB, 2);
  EXPECT_EQ(again.address, first.address) << "the driver gives the address again, else this shows nothing";
  ExpectPattern(*Port(Open({again})), again, 2);
}

// As it is where a program frees one tensor and makes another before it registers again.
TEST_F(DeviceTest, AnAddressUsedAgainWhileTheOldMemoryIsMappedIsTheNewMemory) {
  if (!fake_cuda::IsFake()) GTEST_SKIP() << "what freeing memory does that another process has open is not defined";
  Start();
  const DeclaredMemory first = trainer_->Allocate(kMiB, 1);
  ExpectPattern(*Port(Open({first})), first, 1);
  trainer_->Free(first);
  const DeclaredMemory again = trainer_->Allocate(kMiB, 2);
  EXPECT_EQ(again.address, first.address) << "the driver gives the address again, else this shows nothing";
  const auto table = Open({again});
  session_->CloseAllBut(table.get());
  EXPECT_EQ(Mappings(), 1);
  ExpectPattern(*Port(table), again, 2);
}

// Once the registration that takes memory back has returned, the trainer may unmap it and give it to others.
TEST_F(DeviceTest, TakingBackWaitsForCopiesThatAreUnderWay) {
  if (!fake_cuda::IsFake()) GTEST_SKIP() << "a driver whose copies take their time";
  setenv("KEEPSTEP_FAKE_CUDA_D2H_GBPS", "0.004", 1);  // 2 MiB take 0.5 s
  Start();
  std::vector<DeclaredMemory> pieces;
  std::vector<MemoryRun> runs;
  std::vector<StagingBuffer> buffers;
  for (uint32_t i = 0; i < 2; ++i) {
    pieces.push_back(HandOver(kPieceBytes, i, /*seed=*/20 + i));
    buffers.push_back(*pool_->Acquire(cancel_));
    runs.push_back({pieces.back().address, buffers.back().data(), static_cast<int64_t>(kPieceBytes)});
  }
  const auto port = Port(Open(pieces));
  unsetenv("KEEPSTEP_FAKE_CUDA_D2H_GBPS");
  auto* const first_byte = reinterpret_cast<std::atomic<uint8_t>*>(buffers[0].data());
  first_byte->store(0);
  auto reading = std::async(std::launch::async, [&] { return port->Read(runs, cancel_); });
  while (first_byte->load() == 0) std::this_thread::yield();  // a copy of the first; the second is queued behind it
  session_->CloseAllBut(nullptr);
  for (const DeclaredMemory& memory : pieces) trainer_->Free(memory);
  const absl::Status status = reading.get();
  ASSERT_TRUE(status.ok()) << status;
  for (uint32_t piece = 0; piece < 2; ++piece) {
    for (uint64_t i = 0; i < kPieceBytes; i += 499)
      ASSERT_EQ(static_cast<uint8_t>(runs[piece].local[i]), PatternByte(20 + piece, i)) << piece << ", " << i;
  }
}

TEST_F(DeviceTest, ADeadTrainersMemoryIsClosed) {
  Start();
  const DeclaredMemory memory = trainer_->Allocate(kMiB, 1);
  const auto table = Open({memory});
  EXPECT_EQ(Mappings(), 1);
  trainer_->Kill();
  session_->End();
  Settle();
  EXPECT_EQ(Mappings(), 0);
  std::vector<uint8_t> bytes;
  EXPECT_EQ(ReasonOf(Read(*Port(table), memory, 0, 4096, &bytes)), "MEMORY_TAKEN_BACK");
}

TEST_F(DeviceTest, HandlesThatCannotBeOpenedAreRefused) {
  Start();
  const DeclaredMemory memory = trainer_->Allocate(kMiB, 1);
  DeclaredMemory bad = memory;
  bad.ipc.fill(0x33);
  EXPECT_EQ(ReasonOf(session_->Open({bad}).status()), "BAD_HANDLE");
  DeclaredMemory larger = memory;
  larger.size_bytes = 64 * kMiB;
  EXPECT_EQ(ReasonOf(session_->Open({larger}).status()), "BAD_HANDLE");
  const DeclaredMemory freed = trainer_->Allocate(kMiB, 1);
  trainer_->Free(freed);
  EXPECT_EQ(ReasonOf(session_->Open({freed}).status()), "BAD_HANDLE");
  DeclaredMemory foreign = memory;
  foreign.gpu.fill(0x44);
  EXPECT_EQ(ReasonOf(session_->Open({foreign}).status()), "NO_GPU");
  DeclaredMemory unsent = memory;
  unsent.kind = HandleKind::kDescriptor;
  EXPECT_EQ(ReasonOf(session_->Open({unsent}).status()), "UNKNOWN_DESCRIPTOR");
  EXPECT_EQ(Mappings(), 0);
  EXPECT_EQ(ReasonOf(SessionMemory(nullptr, pieces_).Open({memory}).status()), "GPU_OFF");
  ExpectPattern(*Port(Open({memory})), memory, 1);
}

// They come over a socket of their own: what names them may be read first.
TEST_F(DeviceTest, DescriptorsOnTheirWayAreWaitedFor) {
  Start();
  const int memory = memfd_create("memory", MFD_CLOEXEC);
  DeclaredMemory named{.address = 0x1000, .size_bytes = kMiB, .gpu = trainer_->Allocate(kMiB, 1).gpu,
                       .kind = HandleKind::kDescriptor, .descriptor = 7};
  std::vector<storage::UniqueFd> descriptors;
  descriptors.emplace_back(memory);
  std::thread later([&] { EXPECT_TRUE(session_->Take(7, std::move(descriptors)).ok()); });
  EXPECT_EQ(ReasonOf(session_->Open({named}).status()), "BAD_HANDLE") << "it came, and is no GPU memory";
  later.join();
}

TEST_F(DeviceTest, AnErrorThatCudaSurvivesFailsItsCopyAlone) {
  Start("cuMemcpyDtoHAsync:2:1");
  const DeclaredMemory memory = trainer_->Allocate(kMiB, 1);
  const auto port = Port(Open({memory}));
  ExpectPattern(*port, memory, 1);
  std::vector<uint8_t> bytes;
  const absl::Status status = Read(*port, memory, 0, 4096, &bytes);
  EXPECT_EQ(ReasonOf(status), "DEVICE_ERROR") << status;
  EXPECT_NE(status.message().find("layer.weight: GPU-"), std::string::npos) << status;
  const pid_t worker = hub_->workers().at(0).pid;
  ExpectPattern(*port, memory, 1);
  EXPECT_EQ(hub_->workers().at(0).pid, worker);
}

TEST_F(DeviceTest, AWorkerThatIsKilledIsReplaced) {
  Start();
  const DeclaredMemory memory = trainer_->Allocate(kMiB, 1);
  const auto port = Port(Open({memory}));
  const pid_t worker = hub_->workers().at(0).pid;
  kill(worker, SIGKILL);
  std::vector<uint8_t> bytes;
  // The copy that meets it fails; whether one does depends on when the loss is seen.
  while (Read(*port, memory, 0, 4096, &bytes).ok() && !hub_->workers().empty() && hub_->workers()[0].pid == worker) {
  }
  ExpectPattern(*port, memory, 1);
  EXPECT_NE(hub_->workers().at(0).pid, worker);
}

TEST_F(DeviceTest, ThePoolKeepsItsMemoryWhileAWorkerLives) {
  Start();
  ASSERT_TRUE(pool_->Reserve(8 * kMiB).ok());
  const DeclaredMemory memory = trainer_->Allocate(kMiB, 1);
  ExpectPattern(*Port(Open({memory})), memory, 1);
  EXPECT_EQ(pool_->Shrink(0), 0);
  session_ = nullptr;
  hub_ = nullptr;
  EXPECT_EQ(pool_->Shrink(0), 8 * kMiB);
}

TEST_F(DeviceTest, WhatThePoolHasIsPinnedBeforeItIsUsed) {
  Start();
  ASSERT_EQ(pool_->stats().capacity_bytes, 8 * kMiB);
  const DeclaredMemory memory = trainer_->Allocate(kMiB, 1);
  const int64_t pinned = Held(counters_, fake_cuda::kRegisteredBytes) + 8 * kMiB;  // with what the trainer has
  const auto port = Port(Open({memory}));
  while (Held(counters_, fake_cuda::kRegisteredBytes) < pinned) std::this_thread::yield();
  ExpectPattern(*port, memory, 1);
  EXPECT_EQ(Held(counters_, fake_cuda::kRegisteredBytes), pinned) << "what is pinned is not pinned again";
}

// Small tensors side by side are read in few copies, with what lies between them, and taken apart.
TEST_F(DeviceTest, SmallNeighboursAreReadTogether) {
  Start("cuMemcpyDtoHAsync:8:1");  // more copies than that fail
  const DeclaredMemory memory = trainer_->Allocate(5 * kMiB, 3), other = trainer_->Allocate(kMiB, 4);
  std::vector<DeclaredMemory> both = {memory, other};
  std::sort(both.begin(), both.end(), [](auto& a, auto& b) { return a.address < b.address; });
  const auto port = Port(Open(both));
  auto buffer = *pool_->Acquire(cancel_);
  std::vector<MemoryRun> runs;
  std::byte* local = buffer.data();
  const auto add = [&](const DeclaredMemory& of, int64_t offset_bytes, int64_t size_bytes) {
    runs.push_back({of.address + offset_bytes, local, size_bytes});
    local += size_bytes;
  };
  for (int64_t at = 2 * kMiB - 9000; at > 0; at -= 9216) add(memory, at, 5200 + at % 4000);
  for (int64_t at = 0; at < 100'000; at += 5000) add(other, at, 4999);
  add(memory, 4 * kMiB, 300'000);
  ASSERT_LE(local, buffer.data() + pool_->buffer_bytes());
  const absl::Status status = port->Read(runs, cancel_);
  ASSERT_TRUE(status.ok()) << status;
  for (const MemoryRun& run : runs) {
    const DeclaredMemory& of = run.address - memory.address < 5u * kMiB ? memory : other;
    for (int64_t i = 0; i < run.size_bytes; i += 53) {
      const uint64_t at = run.address + i - of.address;
      ASSERT_EQ(static_cast<uint8_t>(run.local[i]), PatternByte(of.address == memory.address ? 3 : 4, at)) << at;
    }
  }
}

// Allocations come, go, and take each other's addresses; registrations follow. No read gives another allocation's
// bytes, and no mapping outlives its registration.
TEST_F(DeviceTest, RandomLivesOfAllocations) {
  Start();
  std::mt19937_64 random(4711);
  struct Live {
    DeclaredMemory memory;
    uint32_t seed = 0;
  };
  std::map<uint64_t, Live> live;
  std::shared_ptr<const DeviceTable> table = Open({});
  uint32_t seed = 100;
  const auto register_all = [&] {
    std::vector<DeclaredMemory> declared;
    for (const auto& [address, one] : live) declared.push_back(one.memory);
    table = Open(declared);
    session_->CloseAllBut(table.get());
    ASSERT_EQ(Mappings(), static_cast<int64_t>(live.size()));
  };
  const char* operations = getenv("KEEPSTEP_TEST_OPERATIONS");
  for (int i = 0; i < (operations == nullptr ? 10'000 : atoi(operations)); ++i) {
    const uint64_t choice = random() % 10;
    if (choice < 2 && live.size() < 12) {
      const DeclaredMemory memory = trainer_->Allocate(4096 * (1 + random() % 64), ++seed);
      live[memory.address] = {memory, seed};
      register_all();
    } else if (choice < 4 && !live.empty()) {
      const auto gone = std::next(live.begin(), random() % live.size());
      const DeclaredMemory memory = gone->second.memory;
      live.erase(gone);
      register_all();  // taken back before it is freed
      trainer_->Free(memory);
    } else if (choice < 5 && !live.empty()) {
      Live& one = std::next(live.begin(), random() % live.size())->second;
      trainer_->Fill(one.memory, one.seed = ++seed);
    } else if (!live.empty()) {
      const Live& one = std::next(live.begin(), random() % live.size())->second;
      ExpectPattern(*Port(table), one.memory, one.seed);
    }
    if (HasFatalFailure()) return;
  }
}

// Memory by either path outlives the process that exported it, on a driver that says so by its probe.
TEST_F(DeviceTest, AProbeSaysWhatOutlivesItsProcess) {
  Start();
  const GpuUuid gpu = trainer_->Allocate(kMiB, 1).gpu;
  for (const HandleKind kind : {HandleKind::kIpc, HandleKind::kDescriptor}) {
    EXPECT_TRUE(hub_->OutlivesExporter(gpu, kind).ok()) << hub_->OutlivesExporter(gpu, kind);
  }
  EXPECT_EQ(hub_->probed().size(), 2u);
  EXPECT_EQ(Mappings(), 0) << "what was probed is let go";
  EXPECT_TRUE(hub_->workers().empty()) << "by a worker of its own";
}

TEST_F(DeviceTest, AProbeThatFailsIsKnownFromThenOn) {
  if (!fake_cuda::IsFake()) GTEST_SKIP() << "a driver that can be made to fail";
  Start("cuMemcpyDtoHAsync:1:1");
  const GpuUuid gpu = trainer_->Allocate(kMiB, 1).gpu;
  const absl::Status failed = hub_->OutlivesExporter(gpu, HandleKind::kIpc);
  EXPECT_EQ(ReasonOf(failed), "PROBE_FAILED") << failed;
  setenv("KEEPSTEP_FAKE_CUDA_FAULTS", "", 1);
  EXPECT_EQ(hub_->OutlivesExporter(gpu, HandleKind::kIpc), failed);
  EXPECT_TRUE(hub_->OutlivesExporter(gpu, HandleKind::kDescriptor).ok()) << "the other path is another question";
}

// Through the mapping something is read, and no error: only the bytes say that it is not what the process wrote.
TEST_F(DeviceTest, AProbeComparesWhatItReads) {
  if (!fake_cuda::IsFake()) GTEST_SKIP() << "a driver that can be told to forget";
  setenv("KEEPSTEP_FAKE_CUDA_OFF", "outliving", 1);
  Start();
  const GpuUuid gpu = trainer_->Allocate(kMiB, 1).gpu;
  for (const HandleKind kind : {HandleKind::kIpc, HandleKind::kDescriptor}) {
    const absl::Status failed = hub_->OutlivesExporter(gpu, kind);
    EXPECT_EQ(ReasonOf(failed), "PROBE_FAILED") << failed;
    EXPECT_NE(failed.message().find("is not what it wrote"), std::string::npos) << failed;
  }
  unsetenv("KEEPSTEP_FAKE_CUDA_OFF");
}

// What a driver does not share fails its probe; what could not be tried is asked for again.
TEST_F(DeviceTest, WhatCannotBeProbedIsNoAnswer) {
  if (!fake_cuda::IsFake()) GTEST_SKIP() << "a driver that can be made to fail";
  Start("cuIpcGetMemHandle:1:801");
  const GpuUuid gpu = trainer_->Allocate(kMiB, 1).gpu;
  EXPECT_EQ(ReasonOf(hub_->OutlivesExporter(gpu, HandleKind::kIpc)), "PROBE_FAILED");
  GpuUuid nobody{};
  EXPECT_FALSE(hub_->OutlivesExporter(nobody, HandleKind::kIpc).ok());
  EXPECT_EQ(hub_->probed().size(), 1u);
}

}  // namespace
}  // namespace keepstep::daemon
