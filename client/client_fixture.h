// What tests of a client share: one against the scripted daemon, with a tensor of 256 bytes.

#ifndef KEEPSTEP_CLIENT_CLIENT_FIXTURE_H_
#define KEEPSTEP_CLIENT_CLIENT_FIXTURE_H_

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <utility>

#include "client/client.h"
#include "client/fake_daemon.h"

namespace keepstep::client {

constexpr int64_t kLongMs = 60'000;
constexpr int kUnavailable = 14, kAborted = 10, kAlreadyExists = 6;

class ClientTest : public testing::Test {
 protected:
  void StartDaemon(FakeScript script = {}) {
    script.opened.set_epoch(7);
    daemon_ = std::make_unique<FakeDaemon>(std::move(script));
  }

  SessionSpec Spec() {
    SessionSpec spec;
    spec.address = ParseAddress(daemon_->address()).value();
    spec.directory = daemon_->job_directory();
    spec.open.set_world_size(1);
    spec.limits.heartbeat_ms = kLongMs;
    spec.limits.progress_ms = kLongMs;
    spec.limits.watchdog_period_ms = 5;
    spec.limits.futex_slice_ms = 5;
    spec.limits.ask_ms = 20;
    spec.limits.backoff_first_ms = 1;
    spec.limits.backoff_last_ms = 5;
    return spec;
  }

  absl::Status Open() {
    auto client = Client::Open(Spec(), After(kLongMs));
    if (!client.ok()) return client.status();
    client_ = *std::move(client);
    return absl::OkStatus();
  }

  absl::Status Register() {
    Declared declared;
    v1::Buffer& buffer = declared.buffers.emplace_back();
    buffer.mutable_host()->set_address(reinterpret_cast<uint64_t>(weights_.data()));
    buffer.mutable_host()->set_size_bytes(weights_.size());
    declared.shards.emplace_back().mutable_meta()->set_fqn("weights");
    declared.samples[0].push_back({.fqn = "weights", .data = weights_.data(), .size_bytes = 256});
    return client_->saves().Register(std::move(declared), After(kLongMs));
  }

  void OpenAndRegister() {
    ASSERT_TRUE(Open().ok());
    ASSERT_TRUE(Register().ok());
  }

  absl::Status Save(uint64_t* number, int64_t timeout_ms = kLongMs) {
    v1::SaveRequest request;
    request.set_step(100);
    return client_->saves().Save(request, {}, After(timeout_ms), number);
  }

  // A save whose copy is over, and which the client has sealed.
  void SaveAndSeal(uint64_t* number) {
    ASSERT_TRUE(Save(number).ok());
    daemon_->Release(0, *number);
    daemon_->AwaitFrame(proto::FrameKind::kNotify);
  }

  std::array<std::byte, 256> weights_{};
  std::unique_ptr<FakeDaemon> daemon_;
  std::unique_ptr<Client> client_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_CLIENT_FIXTURE_H_
