// What tests of sessions with GPU memory share: a client against the scripted daemon, on the driver that the loader finds.

#ifndef KEEPSTEP_CLIENT_DEVICE_SESSION_FIXTURE_H_
#define KEEPSTEP_CLIENT_DEVICE_SESSION_FIXTURE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "client/client.h"
#include "client/device/test_memory.h"
#include "client/fake_daemon.h"

namespace keepstep::client {

constexpr int64_t kLongMs = 60'000;
constexpr int kResourceExhausted = 8, kFailedPrecondition = 9;

class DeviceSessionTest : public fake_cuda::DriverTest {
 protected:
  void TearDown() override {
    client_.reset();
    daemon_.reset();
    DriverTest::TearDown();
  }

  // Remembers every registration.
  void Start(FakeScript script = {}, proto::Transfer transfer = proto::Transfer::kAuto) {
    script.on_register = [this](const v1::RegisterRequest& request) {
      std::lock_guard lock(mu_);
      if (refusals_ > 0 && refusals_-- > 0) return refusal_;
      if (registered_.empty() || registered_.back().generation() != request.generation()) {
        registered_.push_back(request);
      } else {
        registered_.back().MergeFrom(request);
      }
      return FakeAnswer{};
    };
    daemon_ = std::make_unique<FakeDaemon>(std::move(script));
    SessionSpec spec;
    spec.address = ParseAddress(daemon_->address()).value();
    spec.directory = daemon_->job_directory();
    spec.transfer = transfer;
    spec.open.set_world_size(1);
    spec.limits.heartbeat_ms = spec.limits.progress_ms = kLongMs;
    spec.limits.ask_ms = kLongMs;
    spec.limits.futex_slice_ms = 5;
    spec.limits.backoff_first_ms = 1;
    spec.limits.backoff_last_ms = 5;
    auto client = Client::Open(spec, After(kLongMs));
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  static void Add(Declared* declared, const char* fqn, CUdeviceptr pointer, size_t size_bytes) {
    const auto id = static_cast<uint32_t>(declared->buffers.size());
    v1::Buffer& buffer = declared->buffers.emplace_back();
    buffer.set_id(id);
    buffer.mutable_device()->set_address(pointer);
    buffer.mutable_device()->set_size_bytes(static_cast<int64_t>(size_bytes));
    v1::Shard& shard = declared->shards.emplace_back();
    shard.mutable_meta()->set_fqn(fqn);
    shard.set_buffer_id(id);
    declared->samples[0];
  }

  absl::Status Register(const Declared& declared) {
    return client_->saves().Register(declared, After(kLongMs));
  }

  v1::RegisterRequest LastRegistered() {
    std::lock_guard lock(mu_);
    return registered_.empty() ? v1::RegisterRequest() : registered_.back();
  }

  static std::vector<uint64_t> Numbers(const v1::RegisterRequest& request) {
    std::vector<uint64_t> numbers;
    for (const v1::DeviceMemory& memory : request.memory()) {
      EXPECT_EQ(memory.handle_case(), v1::DeviceMemory::kDescriptorNumber);
      numbers.push_back(memory.descriptor_number());
    }
    return numbers;
  }

  // Waits until all of `numbers` have come: their frames precede the registration, on another socket.
  void ExpectGiven(const std::vector<uint64_t>& numbers) {
    const auto given = [&] {
      const std::map<uint64_t, int> came = daemon_->descriptors();
      return std::all_of(numbers.begin(), numbers.end(),
                         [&](uint64_t number) { return came.contains(number); });
    };
    while (!given()) ASSERT_FALSE(daemon_->AwaitFrame(kFrame).empty());
  }

  static constexpr proto::FrameKind kFrame = proto::FrameKind::kDescriptors;
  std::mutex mu_;
  std::vector<v1::RegisterRequest> registered_;                 // guarded by mu_
  int refusals_ = 0;                                            // guarded by mu_
  FakeAnswer refusal_{kResourceExhausted, "TOO_MANY_TENSORS"};  // guarded by mu_
  std::unique_ptr<FakeDaemon> daemon_;
  std::unique_ptr<Client> client_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_SESSION_FIXTURE_H_
