// Whether a client goes on with kept memory or loads: asked once, against the scripted daemon.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <memory>

#include "client/client.h"
#include "client/failure.h"
#include "client/fake_daemon.h"

namespace keepstep::client {
namespace {

constexpr int64_t kLongMs = 60'000;
constexpr int kUnavailable = 14;

class RestartTest : public testing::Test {
 protected:
  void Open(FakeScript script, bool warm = true) {
    auto answer = std::move(script.on_restart);
    script.on_restart = [this, answer](const v1::RestartRequest& request, v1::RestartResponse* response) {
      ++asked_;
      EXPECT_GT(request.generation(), 0u);
      return answer ? answer(request, response) : FakeAnswer{};
    };
    script.on_load = [this](const v1::LoadRequest&, v1::LoadReport* report) {
      ++loads_;
      report->set_found(true);
      report->set_step(10);
      return FakeAnswer{};
    };
    daemon_ = std::make_unique<FakeDaemon>(std::move(script));
    SessionSpec spec;
    spec.address = ParseAddress(daemon_->address()).value();
    spec.directory = daemon_->job_directory();
    spec.open.set_world_size(1);
    spec.open.set_warm(warm);
    spec.rescue = warm;
    spec.limits.heartbeat_ms = spec.limits.progress_ms = kLongMs;
    spec.limits.backoff_first_ms = 1;
    auto client = Client::Open(spec, After(kLongMs));
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    Declared declared;
    v1::Buffer& buffer = declared.buffers.emplace_back();
    buffer.mutable_host()->set_address(reinterpret_cast<uint64_t>(weights_.data()));
    buffer.mutable_host()->set_size_bytes(weights_.size());
    declared.shards.emplace_back().mutable_meta()->set_fqn("weights");
    declared.samples[0];
    ASSERT_TRUE(client_->saves().Register(std::move(declared), After(kLongMs)).ok());
  }

  static v1::LoadRequest Latest() {
    v1::LoadRequest request;
    request.set_latest(true);
    return request;
  }

  absl::StatusOr<Client::Loaded> Load(const v1::LoadRequest& request = Latest()) {
    return client_->Load(request, After(kLongMs), nullptr);
  }

  std::array<std::byte, 256> weights_{};
  std::atomic<int> asked_{0}, loads_{0};
  std::unique_ptr<FakeDaemon> daemon_;
  std::unique_ptr<Client> client_;
};

TEST_F(RestartTest, WarmIsNoLoadAndIsAskedOnce) {
  Open({.on_restart = [](const v1::RestartRequest&, v1::RestartResponse* response) {
    response->set_warm(true);
    response->set_step(42);
    response->set_epoch(3);
    response->set_host_bytes(256);
    return FakeAnswer{};
  }});
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(loaded->warm);
  EXPECT_TRUE(loaded->report.found());
  EXPECT_EQ(loaded->report.step(), 42);
  EXPECT_EQ(loaded->report.epoch(), 3);
  EXPECT_EQ(loaded->report.delivered_bytes(), 256);
  EXPECT_EQ(loads_, 0);
  const auto again = Load();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(again->warm);
  EXPECT_EQ(again->report.step(), 10);
  EXPECT_EQ(asked_, 1);
}

TEST_F(RestartTest, ColdIsALoadThatSaysWhy) {
  Open({.on_restart = [](const v1::RestartRequest&, v1::RestartResponse* response) {
    response->set_why_cold("rank 3 was at step 41, rank 0 at 42");
    return FakeAnswer{};
  }});
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_FALSE(loaded->warm);
  EXPECT_EQ(loaded->why_cold, "rank 3 was at step 41, rank 0 at 42");
  EXPECT_EQ(loaded->report.step(), 10);
  EXPECT_EQ(loads_, 1);
}

TEST_F(RestartTest, OnlyTheFirstLoadOfAllThatIsLatestAsks) {
  for (const auto& change : std::vector<std::function<void(v1::LoadRequest&)>>{
           [](v1::LoadRequest& request) { request.set_latest(false); },
           [](v1::LoadRequest& request) { request.add_only("w*"); },
           [](v1::LoadRequest& request) { request.add_exclude("w*"); },
           [](v1::LoadRequest& request) { (*request.mutable_rename())["weights"] = "other"; },
           [](v1::LoadRequest& request) { request.set_convert_dtype(true); }}) {
    Open({});
    v1::LoadRequest request = Latest();
    change(request);
    ASSERT_TRUE(Load(request).ok());
    ASSERT_TRUE(Load().ok()) << "memory may have been written since";
    EXPECT_EQ(asked_, 0);
    client_.reset();
  }
  Open({}, /*warm=*/false);
  ASSERT_TRUE(Load().ok());
  EXPECT_EQ(asked_, 0);
}

// The daemon may have told the others to go on: this rank must neither load nor ask another daemon.
TEST_F(RestartTest, AnAnswerThatIsLostFailsEveryLoad) {
  Open({.on_restart = [](const v1::RestartRequest&, v1::RestartResponse*) { return FakeAnswer{.code = kUnavailable}; }});
  for (int i = 0; i < 2; ++i) {
    const absl::Status status = Load().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    EXPECT_EQ(BlameOf(status).reason, "RESTART_UNKNOWN");
  }
  EXPECT_EQ(asked_, 1);
  EXPECT_EQ(loads_, 0);
}

}  // namespace
}  // namespace keepstep::client
