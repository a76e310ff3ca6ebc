// What the tests of this folder share: a hub with workers of its own, a session of it, and a trainer in another process.

#ifndef KEEPSTEP_DAEMON_DEVICE_TEST_FIXTURE_H_
#define KEEPSTEP_DAEMON_DEVICE_TEST_FIXTURE_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/device/device_port.h"
#include "daemon/device/session_memory.h"
#include "daemon/device/test_trainer.h"
#include "daemon/local_port.h"
#include "tests/fake_cuda/counters.h"
#include "tests/fake_cuda/driver_library.h"

namespace keepstep::daemon {

inline constexpr int64_t kMiB = 1 << 20;
inline constexpr uint64_t kPieceBytes = 2 * kMiB;

// The layout is in tests/fake_cuda/counters.h.
inline int64_t Held(const std::string& path, fake_cuda::Counter counter) {
  const storage::UniqueFd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
  int64_t total = 0;
  for (off_t slot = 4096; slot < 4096 + 256 * 512; slot += 512) {
    struct flock probe {};
    probe.l_type = F_WRLCK;
    probe.l_whence = SEEK_SET;
    probe.l_start = slot;
    probe.l_len = 1;
    int64_t value = 0;
    if (fcntl(file.get(), F_OFD_GETLK, &probe) != 0 || probe.l_type == F_UNLCK) continue;
    if (pread(file.get(), &value, sizeof(value), slot + 8 + 8 * counter) == sizeof(value)) total += value;
  }
  return total;
}

class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fake_cuda::HasDriver()) GTEST_SKIP() << "no CUDA driver";
    counters_ = ::testing::TempDir() + "/counters-" + std::to_string(getpid()) + "-" +
                ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove(counters_);
    setenv("KEEPSTEP_FAKE_CUDA_COUNTERS", counters_.c_str(), 1);
    for (const char* setting : {"FAULTS", "OFF", "HOST_NUMA_IDS"})
      unsetenv((std::string("KEEPSTEP_FAKE_CUDA_") + setting).c_str());
    trainer_ = std::make_unique<TestTrainer>();
  }

  void TearDown() override {
    Stop();
    trainer_ = nullptr;
    std::filesystem::remove(counters_);
  }

  // A hub and a session of it. `faults`: of the workers (tests/fake_cuda/options.h).
  void Start(const std::string& faults = "", DeviceHubSpec limits = {}) {
    setenv("KEEPSTEP_FAKE_CUDA_FAULTS", faults.c_str(), 1);
    pool_ = *StagingPool::Start({.limit_bytes = 8 * kMiB, .buffer_bytes = 2 * kMiB, .shared = true});
    limits.command = {"daemon/device/test_worker"};
    if (!sysfs_.empty()) limits.command.push_back(sysfs_);
    hub_ = std::make_unique<DeviceHub>(limits, pool_.get(), &log_);
    pieces_ = std::make_shared<TrainerPieces>();
    session_ = std::make_unique<SessionMemory>(hub_.get(), pieces_);
  }

  void Stop() {
    session_ = nullptr;
    hub_ = nullptr;
    pool_ = nullptr;
  }

  std::shared_ptr<DevicePort> Port(std::shared_ptr<const DeviceTable> table, std::vector<Fence> fences = {}) {
    return std::make_shared<DevicePort>(hub_.get(), std::make_shared<LocalPort>(), std::move(table),
                                        std::move(fences), [](uint64_t) { return "layer.weight"; });
  }

  // A piece of VMM memory whose descriptor, by this number, the session has.
  DeclaredMemory HandOver(int64_t size_bytes, uint32_t number, uint32_t seed) {
    auto [memory, descriptor] = trainer_->AllocatePiece(size_bytes, seed);
    memory.descriptor = number;
    std::vector<storage::UniqueFd> descriptors;
    descriptors.push_back(std::move(descriptor));
    EXPECT_TRUE(session_->Take(number, std::move(descriptors)).ok());
    return memory;
  }

  std::shared_ptr<const DeviceTable> Open(const std::vector<DeclaredMemory>& declared) {
    auto table = session_->Open(declared);
    EXPECT_TRUE(table.ok()) << table.status();
    return table.ok() ? *table : nullptr;
  }

  // Bytes [offset, offset + size) of `memory`, copied into a staging buffer.
  absl::Status Read(MemoryPort& port, const DeclaredMemory& memory, int64_t offset_bytes, int64_t size_bytes,
                    std::vector<uint8_t>* bytes) {
    auto buffer = pool_->Acquire(cancel_);
    if (!buffer.ok()) return buffer.status();
    absl::Status status = port.Read({{memory.address + offset_bytes, buffer->data(), size_bytes}}, cancel_);
    const auto* begin = reinterpret_cast<const uint8_t*>(buffer->data());
    bytes->assign(begin, begin + size_bytes);
    return status;
  }

  void ExpectPattern(MemoryPort& port, const DeclaredMemory& memory, uint32_t seed) {
    std::vector<uint8_t> bytes;
    const int64_t size_bytes = std::min(memory.size_bytes, 2 * kMiB);
    ASSERT_TRUE(Read(port, memory, 0, size_bytes, &bytes).ok());
    for (int64_t i = 0; i < size_bytes; i += 997) ASSERT_EQ(bytes[i], PatternByte(seed, i)) << i;
  }

  int64_t Mappings() { return Held(counters_, fake_cuda::kImports) + Held(counters_, fake_cuda::kVmmMappings); }

  // Waits for the hub's thread.
  void Settle() {
    std::promise<void> done;
    hub_->Later([&] { done.set_value(); });
    done.get_future().wait();
  }

  std::string counters_;
  std::string sysfs_;  // a folder in place of the workers' /sys; empty: none
  Log log_{Log::Format::kText, Log::Level::kError};
  Cancellation cancel_;
  std::unique_ptr<TestTrainer> trainer_;
  std::unique_ptr<StagingPool> pool_;
  std::unique_ptr<DeviceHub> hub_;
  std::shared_ptr<TrainerPieces> pieces_;
  std::unique_ptr<SessionMemory> session_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_TEST_FIXTURE_H_
