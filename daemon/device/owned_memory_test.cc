// Memory that the daemon owns, made by workers of their own on the driver that the loader finds (tests/fake_cuda), whose
// new memory is not clean.

#include "daemon/device/owned_memory.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "daemon/device/device_port.h"
#include "daemon/device/session_memory.h"
#include "daemon/device/test_trainer.h"
#include "daemon/device/trainer_pieces.h"
#include "daemon/error.h"
#include "daemon/local_port.h"
#include "tests/fake_cuda/driver_library.h"

namespace keepstep::daemon {
namespace {

using namespace std::chrono_literals;

constexpr int64_t kMiB = 1 << 20;
constexpr uint64_t kAddress = uint64_t{1} << 40;  // where a trainer would have mapped it

class OwnedMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fake_cuda::HasDriver()) GTEST_SKIP() << "no CUDA driver";
    unsetenv("KEEPSTEP_FAKE_CUDA_FAULTS");
    setenv("KEEPSTEP_FAKE_CUDA_DIRTY", "1", 1);
    TestTrainer trainer;
    gpu_ = trainer.Allocate(4096, 0).gpu;
  }

  // `faults`: of the workers (tests/fake_cuda/options.h).
  void Start(int64_t limit_bytes, const std::string& faults = "", std::chrono::milliseconds stall = 30s) {
    setenv("KEEPSTEP_FAKE_CUDA_FAULTS", faults.c_str(), 1);
    session_ = nullptr;
    hub_ = nullptr;
    pool_ = *StagingPool::Start({.limit_bytes = 8 * kMiB, .buffer_bytes = 2 * kMiB, .shared = true});
    hub_ = std::make_unique<DeviceHub>(
        DeviceHubSpec{.command = {"daemon/device/test_worker"}, .stall = stall}, pool_.get(), &log_);
    owned_ = std::make_unique<OwnedMemory>(MadeByWorkers(hub_.get()), limit_bytes);
    pieces_ = std::make_shared<TrainerPieces>();
    session_ = std::make_unique<SessionMemory>(hub_.get(), pieces_);
  }

  std::string ReasonOfAllocate(int64_t size_bytes) { return ReasonOf(owned_->Allocate(gpu_, size_bytes).status()); }

  absl::StatusOr<LentPiece> Lend(uint64_t ordinal, int64_t size_bytes) {
    return pieces_->Allocate({gpu_, ordinal}, size_bytes, [&]() -> absl::StatusOr<LentPiece> {
      auto piece = owned_->Allocate(gpu_, size_bytes);
      if (!piece.ok()) return piece.status();
      return LentPiece{*std::move(piece)};
    });
  }

  DeclaredMemory Declare(uint64_t ordinal, int64_t size_bytes) const {
    return {.address = kAddress, .size_bytes = size_bytes, .gpu = gpu_, .kind = HandleKind::kDescriptor, .owned = ordinal};
  }

  std::shared_ptr<DevicePort> Port(std::shared_ptr<const DeviceTable> table) {
    return std::make_shared<DevicePort>(hub_.get(), std::make_shared<LocalPort>(), std::move(table),
                                        std::vector<Fence>(), [](uint64_t) { return "layer.weight"; });
  }

  // The bytes at `offset_bytes` of what is declared.
  std::vector<std::byte> Read(MemoryPort& port, int64_t offset_bytes, int64_t size_bytes) {
    auto buffer = *pool_->Acquire(cancel_);
    EXPECT_TRUE(port.Read({{kAddress + offset_bytes, buffer.data(), size_bytes}}, cancel_).ok());
    return {buffer.data(), buffer.data() + size_bytes};
  }

  GpuUuid gpu_{};
  Log log_{Log::Format::kText, Log::Level::kError};
  Cancellation cancel_;
  std::unique_ptr<StagingPool> pool_;
  std::unique_ptr<DeviceHub> hub_;
  std::unique_ptr<OwnedMemory> owned_;
  std::shared_ptr<TrainerPieces> pieces_;
  std::unique_ptr<SessionMemory> session_;
};

TEST_F(OwnedMemoryTest, HoldsZeroesAndOutlivesTheWorkerThatMadeIt) {
  Start(64 * kMiB);
  auto lent = Lend(1, 3 * kMiB);
  ASSERT_TRUE(lent.ok()) << lent.status();
  EXPECT_EQ(lent->piece->size_bytes(), 4 * kMiB) << "rounded up";
  auto table = session_->Open({Declare(1, 4 * kMiB)});
  ASSERT_TRUE(table.ok()) << table.status();
  const auto port = Port(*table);
  for (const int64_t begin : {0 * kMiB, 2 * kMiB})
    EXPECT_TRUE(Read(*port, begin, 2 * kMiB) == std::vector<std::byte>(2 * kMiB)) << "new memory is not clean";
  auto buffer = *pool_->Acquire(cancel_);
  std::fill_n(buffer.data(), 2 * kMiB, std::byte{0x5a});
  ASSERT_TRUE(port->Write({{kAddress + 2 * kMiB, buffer.data(), 2 * kMiB}}, cancel_).ok());

  const pid_t worker = hub_->workers().at(0).pid;
  kill(worker, SIGKILL);
  while (!hub_->workers().empty() && hub_->workers()[0].pid == worker) (void)port->Read({{kAddress, buffer.data(), 1}}, cancel_);
  EXPECT_EQ(Read(*port, 2 * kMiB, 2 * kMiB), std::vector<std::byte>(2 * kMiB, std::byte{0x5a}));
  EXPECT_NE(hub_->workers().at(0).pid, worker);
}

TEST_F(OwnedMemoryTest, IsLimitedOnEachGpuByWhatAnybodyHolds) {
  Start(8 * kMiB);
  EXPECT_EQ(ReasonOfAllocate(8 * kMiB + 1), "GPU_POOL_FULL");
  EXPECT_EQ(ReasonOfAllocate(INT64_MAX), "GPU_POOL_FULL");
  auto lent = Lend(1, 5 * kMiB);
  ASSERT_TRUE(lent.ok()) << lent.status();
  lent = absl::CancelledError();
  EXPECT_EQ(owned_->used_bytes(), 6 * kMiB);
  EXPECT_EQ(owned_->used_bytes_by_gpu(), (std::map<GpuUuid, int64_t>{{gpu_, 6 * kMiB}}));
  EXPECT_EQ(ReasonOfAllocate(2 * kMiB + 1), "GPU_POOL_FULL");
  auto table = session_->Open({Declare(1, 6 * kMiB)});
  ASSERT_TRUE(table.ok()) << table.status();
  ASSERT_TRUE(pieces_->Free({gpu_, 1}).ok());
  EXPECT_EQ(owned_->used_bytes(), 6 * kMiB) << "a mapping holds it";
  session_->CloseAllBut(nullptr);
  EXPECT_EQ(owned_->used_bytes(), 0);
  EXPECT_TRUE(owned_->used_bytes_by_gpu().empty());
  EXPECT_TRUE(owned_->Allocate(gpu_, 8 * kMiB).ok());
}

TEST_F(OwnedMemoryTest, NonsenseIsRefusedByName) {
  Start(8 * kMiB);
  EXPECT_EQ(ReasonOfAllocate(0), "BAD_ALLOCATION");
  EXPECT_EQ(ReasonOfAllocate(-5), "BAD_ALLOCATION");
  EXPECT_EQ(ReasonOf(Lend(0, kMiB).status()), "BAD_ALLOCATION");
  GpuUuid other{};
  EXPECT_EQ(ReasonOf(owned_->Allocate(other, kMiB).status()), "NO_GPU");
  EXPECT_EQ(ReasonOf(pieces_->Free({gpu_, 7})), "UNKNOWN_PIECE");
  EXPECT_EQ(ReasonOf(pieces_->Find({other, 1}).status()), "UNKNOWN_PIECE");
  EXPECT_EQ(ReasonOf(session_->Open({Declare(3, kMiB)}).status()), "UNKNOWN_PIECE");
  ASSERT_TRUE(Lend(1, kMiB).ok());
  EXPECT_EQ(ReasonOf(session_->Open({Declare(1, 4 * kMiB)}).status()), "BAD_HANDLE");
  EXPECT_EQ(owned_->used_bytes(), 2 * kMiB) << "what was refused counts for nothing";
  Start(0);
  EXPECT_EQ(ReasonOfAllocate(kMiB), "GPU_POOL_OFF");
}

TEST_F(OwnedMemoryTest, AskedForTwiceAPieceIsTheSame) {
  Start(8 * kMiB);
  const auto first = Lend(1, kMiB), again = Lend(1, kMiB), other = Lend(2, kMiB);
  ASSERT_TRUE(first.ok() && again.ok() && other.ok());
  EXPECT_EQ(first->piece, again->piece);
  EXPECT_NE(first->piece, other->piece);
  EXPECT_EQ(ReasonOf(Lend(1, 2 * kMiB).status()), "BAD_ALLOCATION") << "another size";
}

// A worker that fails at any call of an allocation names the call, leaves nothing behind, and makes the next one.
TEST_F(OwnedMemoryTest, EachCallThatFailsFailsOneAllocation) {
  for (const char* call : {"cuMemCreate", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess", "cuMemsetD8Async",
                           "cuStreamSynchronize", "cuMemExportToShareableHandle", "cuMemUnmap", "cuMemRelease"}) {
    SCOPED_TRACE(call);
    const std::string counters = ::testing::TempDir() + "/owned-counters-" + std::to_string(getpid());
    unlink(counters.c_str());
    setenv("KEEPSTEP_FAKE_CUDA_COUNTERS", counters.c_str(), 1);
    Start(8 * kMiB, std::string(call) + ":1:1:once");
    const absl::Status status = owned_->Allocate(gpu_, kMiB).status();
    // What cannot be unmapped, or may be written yet, goes with the worker.
    const bool unsafe = std::set<std::string>{"cuStreamSynchronize", "cuMemUnmap", "cuMemRelease"}.contains(call);
    EXPECT_EQ(ReasonOf(status), unsafe ? "DEVICE_LOST" : "DEVICE_ERROR") << status;
    EXPECT_NE(status.message().find(call), std::string::npos) << status;
    EXPECT_EQ(owned_->used_bytes(), 0);
    const absl::Status next = owned_->Allocate(gpu_, kMiB).status();
    EXPECT_TRUE(next.ok()) << next;
    unsetenv("KEEPSTEP_FAKE_CUDA_COUNTERS");
    unlink(counters.c_str());
  }
}

TEST_F(OwnedMemoryTest, AGpuWithoutMemoryLeftSaysSo) {
  setenv("KEEPSTEP_FAKE_CUDA_MEMORY_BYTES", std::to_string(4 * kMiB).c_str(), 1);
  Start(64 * kMiB);
  const absl::Status status = owned_->Allocate(gpu_, 8 * kMiB).status();
  unsetenv("KEEPSTEP_FAKE_CUDA_MEMORY_BYTES");
  EXPECT_EQ(ReasonOf(status), "DEVICE_ERROR") << status;
  EXPECT_NE(status.message().find("CUDA_ERROR_OUT_OF_MEMORY"), std::string::npos) << status;
  EXPECT_EQ(owned_->used_bytes(), 0);
}

TEST_F(OwnedMemoryTest, AnAllocationThatHangsCostsOneWorker) {
  const std::string counters = ::testing::TempDir() + "/owned-counters-" + std::to_string(getpid());
  setenv("KEEPSTEP_FAKE_CUDA_COUNTERS", counters.c_str(), 1);
  Start(8 * kMiB, "cuMemCreate:1:hang:once", 300ms);
  EXPECT_EQ(ReasonOfAllocate(kMiB), "DEVICE_STUCK");
  EXPECT_EQ(owned_->used_bytes(), 0);
  EXPECT_TRUE(owned_->Allocate(gpu_, kMiB).ok());
  unsetenv("KEEPSTEP_FAKE_CUDA_COUNTERS");
  unlink(counters.c_str());
}

// A process that has lost its connection has its pieces in its next session; another process has none of them.
TEST_F(OwnedMemoryTest, PiecesBelongToAProcess) {
  PiecesByProcess processes;
  const PiecesByProcess::Nonce nonce{1}, other{2};
  const auto pieces = processes.Of(100, nonce);
  EXPECT_EQ(processes.Of(100, nonce), pieces);
  EXPECT_NE(processes.Of(101, nonce), pieces);
  EXPECT_NE(processes.Of(100, other), pieces);
}

}  // namespace
}  // namespace keepstep::daemon
