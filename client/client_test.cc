// A client against the scripted daemon: handshake, registration, restarts, loads.

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "client/client_fixture.h"
#include "client/failure.h"

namespace keepstep::client {
namespace {

TEST_F(ClientTest, NobodyListens) {
  StartDaemon();
  daemon_->Stop();
  const absl::Status status = Open();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(BlameOf(status).reason, "NO_DAEMON");
}

TEST_F(ClientTest, RefusedHandshakeKeepsCodeAndReason) {
  StartDaemon({.refuse = {.code = 9, .reason = "NO_PULL"}});
  const absl::Status status = Open();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(BlameOf(status).reason, "NO_PULL");
}

TEST_F(ClientTest, StaleEpochEndsTheOpening) {
  StartDaemon({.on_open = [](const v1::OpenRequest&) { return FakeAnswer{kAborted, "STALE_EPOCH"}; }});
  const absl::Status status = Open();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(BlameOf(status).reason, "STALE_EPOCH");
  EXPECT_EQ(BlameOf(status).rank, 3);
}

TEST_F(ClientTest, OpeningWaitsForADaemonThatRecovers) {
  std::atomic<int> tries{0};
  StartDaemon({.on_open = [&](const v1::OpenRequest&) {
    return ++tries < 3 ? FakeAnswer{kUnavailable, "RECOVERING"} : FakeAnswer{};
  }});
  EXPECT_TRUE(Open().ok());
  EXPECT_EQ(tries, 3);
}

TEST_F(ClientTest, HandshakeByPullPointsAtTheNonce) {
  StartDaemon();
  ASSERT_TRUE(Open().ok());
  const proto::Hello hello = daemon_->hello();
  EXPECT_EQ(std::memcmp(reinterpret_cast<const void*>(hello.nonce_address), hello.nonce, proto::kNonceBytes),
            0);
  EXPECT_EQ(hello.has_directory, 1);
  EXPECT_EQ(client_->session().info().transfer, proto::Transfer::kPull);
  EXPECT_EQ(client_->session().info().epoch, 7);
}

TEST_F(ClientTest, WindowCopiesOnlyRegisteredMemory) {
  StartDaemon({.transfer = proto::Transfer::kWindow});
  OpenAndRegister();
  weights_.fill(std::byte{0x5a});
  const auto address = reinterpret_cast<uint64_t>(weights_.data());
  const auto answer = [&](std::vector<proto::CopyEntry> entries) {
    proto::Copy copy;
    copy.id = 9;
    copy.count = entries.size();
    daemon_->SendCopy(copy, entries);
    const std::vector<std::byte> frame = daemon_->AwaitFrame(proto::FrameKind::kCopyDone);
    proto::CopyDone done;
    std::memcpy(&done, frame.data(), sizeof(done));
    EXPECT_EQ(done.id, 9u);
    return done.error;
  };
  EXPECT_EQ(answer({{address, 256, 1000}}), 0);
  EXPECT_EQ(std::memcmp(daemon_->window() + 1000, weights_.data(), 256), 0);
  EXPECT_EQ(answer({{address, 8, 0}, {address + 250, 8, 8}}), EFAULT);
  EXPECT_EQ(daemon_->window()[0], std::byte{0}) << "nothing of a refused request is copied";
}

TEST_F(ClientTest, ResumesWithTheSameNonceEpochAndRegistration) {
  std::mutex mu;
  std::vector<v1::OpenRequest> opens;
  std::vector<v1::RegisterRequest> registrations;
  StartDaemon({.on_open =
                   [&](const v1::OpenRequest& request) {
                     std::lock_guard lock(mu);
                     opens.push_back(request);
                     return FakeAnswer{};
                   },
               .on_register =
                   [&](const v1::RegisterRequest& request) {
                     std::lock_guard lock(mu);
                     registrations.push_back(request);
                     return FakeAnswer{};
                   }});
  OpenAndRegister();
  uint64_t number = 0;
  SaveAndSeal(&number);
  daemon_->Stop();
  daemon_->Start();
  // One that begins before the client has seen the connection end fails with it.
  while (!Save(&number).ok()) ASSERT_LT(number, 10u);
  EXPECT_GE(number, 2u);
  std::lock_guard lock(mu);
  ASSERT_EQ(opens.size(), 2u);
  EXPECT_EQ(opens[0].epoch(), 0);
  EXPECT_EQ(opens[1].epoch(), 7);
  EXPECT_EQ(opens[1].nonce(), opens[0].nonce());
  EXPECT_GE(opens[1].saves_issued(), 1u);
  ASSERT_EQ(registrations.size(), 2u);
  EXPECT_GT(registrations[1].generation(), registrations[0].generation());
  EXPECT_EQ(registrations[1].shards(0).meta().fqn(), "weights");
}

TEST_F(ClientTest, RegistrationWaitsForTheCopyOfTheOld) {
  StartDaemon();
  OpenAndRegister();
  uint64_t number = 0;
  ASSERT_TRUE(Save(&number).ok());
  std::thread releaser([&] { daemon_->Release(0, number); });
  EXPECT_TRUE(Register().ok());
  releaser.join();
  EXPECT_TRUE(client_->gate().IsOpen(0));
}

TEST_F(ClientTest, LoadReportsAndTriesAgain) {
  std::atomic<int> loads{0};
  StartDaemon({.on_load = [&](const v1::LoadRequest& request, v1::LoadReport* report) {
    if (++loads == 1) return FakeAnswer{kUnavailable, ""};
    report->set_found(true);
    report->set_step(request.step());
    return FakeAnswer{};
  }});
  OpenAndRegister();
  v1::LoadRequest request;
  request.set_step(42);
  int64_t bytes_done = 0;
  auto report =
      client_->Load(request, After(kLongMs), [&](const v1::LoadProgress& p) { bytes_done = p.bytes_done(); });
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->report.step(), 42);
  EXPECT_FALSE(report->warm);
  EXPECT_EQ(bytes_done, 1);
}

TEST_F(ClientTest, ClosingSaysGoodbye) {
  StartDaemon();
  OpenAndRegister();
  client_.reset();
  EXPECT_FALSE(daemon_->AwaitFrame(proto::FrameKind::kGoodbye).empty());
}

TEST(SplitRegistration, ChunksSayThatMoreFollows) {
  Declared declared;
  for (int i = 0; i < 100; ++i)
    declared.shards.emplace_back().mutable_meta()->set_fqn("tensor-" + std::to_string(i));
  const auto requests = SplitRegistration(declared, {}, 5, 500);
  ASSERT_GT(requests.size(), 2u);
  int shards = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_LE(requests[i].ByteSizeLong(), 512u);
    EXPECT_EQ(requests[i].more(), i + 1 < requests.size());
    EXPECT_EQ(requests[i].generation(), 5u);
    shards += requests[i].shards_size();
  }
  EXPECT_EQ(shards, 100);
  EXPECT_EQ(SplitRegistration(Declared(), {}, 6, 500).size(), 1u) << "an empty generation is one too";
}

}  // namespace
}  // namespace keepstep::client
