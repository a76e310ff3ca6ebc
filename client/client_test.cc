// A client against the scripted daemon: handshake, saves, lost answers, restarts, loads.

#include "client/client.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include "client/failure.h"
#include "client/fake_daemon.h"

namespace keepstep::client {
namespace {

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

  std::array<std::byte, 256> weights_{};
  std::unique_ptr<FakeDaemon> daemon_;
  std::unique_ptr<Client> client_;
};

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

TEST_F(ClientTest, AnAskIsAnsweredByThePageAlone) {
  StartDaemon();
  OpenAndRegister();
  uint64_t number = 0;
  ASSERT_TRUE(Save(&number).ok());
  const std::vector<std::byte> frame = daemon_->AwaitFrame(proto::FrameKind::kAskSave);
  v1::SaveRequest request;
  ASSERT_TRUE(request.ParseFromArray(frame.data() + sizeof(proto::AskSave),
                                     static_cast<int>(frame.size() - sizeof(proto::AskSave))));
  EXPECT_EQ(request.number(), number);
  EXPECT_EQ(request.step(), 100);
  v1::SaveStatus status;
  EXPECT_TRUE(client_->saves().Wait(number, v1::ACCEPTED, After(0), &status).ok());
  EXPECT_EQ(status.state(), v1::ACCEPTED);
  EXPECT_FALSE(client_->gate().IsOpen(0));
}

// A frame may be lost with its connection, a daemon may be too busy to take it: the call says what is so.
TEST_F(ClientTest, AnAskThatNobodyAnswersBecomesACall) {
  std::atomic<int> calls{0};
  StartDaemon({.on_save =
                   [&](const v1::SaveRequest&, v1::SaveResponse*) {
                     ++calls;
                     return FakeAnswer{};
                   },
               .ignore_asks = true});
  OpenAndRegister();
  uint64_t number = 0;
  EXPECT_TRUE(Save(&number).ok());
  EXPECT_EQ(calls, 1);
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

TEST_F(ClientTest, SealsAndNotifiesOnceReleased) {
  StartDaemon();
  OpenAndRegister();
  uint64_t number = 0;
  ASSERT_TRUE(Save(&number).ok());
  EXPECT_FALSE(client_->gate().IsOpen(0));
  daemon_->Release(0, number);
  EXPECT_FALSE(daemon_->AwaitFrame(proto::FrameKind::kNotify).empty());
  EXPECT_EQ(daemon_->client_page().verdicts[number].load(),
            proto::PackSlot(number, static_cast<uint8_t>(proto::Verdict::kSealed)));
}

TEST_F(ClientTest, UpdateThatIgnoresTheGateFailsItsSaveByName) {
  StartDaemon();
  OpenAndRegister();
  uint64_t number = 0;
  ASSERT_TRUE(Save(&number).ok());
  weights_.fill(std::byte{1});
  daemon_->Release(0, number);
  v1::SaveStatus status;
  ASSERT_TRUE(client_->gate().Wait(0, After(kLongMs)).ok());
  ASSERT_TRUE(client_->saves().Wait(number, v1::COMMITTED, After(kLongMs), &status).ok());
  EXPECT_EQ(status.state(), v1::FAILED);
  EXPECT_EQ(status.step(), 100);
  EXPECT_EQ(status.failure().reason(), "UPDATED_DURING_SAVE");
  EXPECT_EQ(daemon_->client_page().verdicts[number].load(),
            proto::PackSlot(number, static_cast<uint8_t>(proto::Verdict::kPoisoned)));
}

TEST_F(ClientTest, RefusedSaveLeavesTheGateOpen) {
  StartDaemon({.on_save = [](const v1::SaveRequest&, v1::SaveResponse*) {
    return FakeAnswer{kAlreadyExists, "STEP_EXISTS"};
  }});
  OpenAndRegister();
  uint64_t number = 0;
  EXPECT_EQ(BlameOf(Save(&number)).reason, "STEP_EXISTS");
  EXPECT_EQ(number, 1u);
  EXPECT_TRUE(client_->gate().IsOpen(0));
}

// The daemon may have taken the save: an update that goes through now could be copied.
TEST_F(ClientTest, UnknownOutcomeKeepsTheGateShutUntilTheSameNumberIsAnswered) {
  std::atomic<bool> answering{false};
  std::atomic<uint64_t> other{0};
  StartDaemon({.on_save = [&](const v1::SaveRequest& request, v1::SaveResponse*) {
    if (request.number() != 1) other = request.number();
    return answering ? FakeAnswer{} : FakeAnswer{kUnavailable, ""};
  }});
  OpenAndRegister();
  uint64_t number = 0;
  const absl::Status status = Save(&number, /*timeout_ms=*/20);
  EXPECT_EQ(BlameOf(status).reason, "OUTCOME_UNKNOWN");
  daemon_->Release(0, number);
  EXPECT_FALSE(client_->gate().IsOpen(0));
  answering = true;
  EXPECT_TRUE(client_->gate().Wait(0, After(kLongMs)).ok());
  EXPECT_EQ(other, 0u);
}

TEST_F(ClientTest, APageThatSpeaksLateMakesAnUnknownOutcomeKnown) {
  StartDaemon({.on_save = [](const v1::SaveRequest&, v1::SaveResponse*) {
    return FakeAnswer{kUnavailable, ""};
  }});
  OpenAndRegister();
  uint64_t number = 0;
  EXPECT_EQ(BlameOf(Save(&number, /*timeout_ms=*/20)).reason, "OUTCOME_UNKNOWN");
  daemon_->SetState(number, v1::ACCEPTED);
  v1::SaveStatus status;
  EXPECT_TRUE(client_->saves().Wait(number, v1::ACCEPTED, After(0), &status).ok());
  EXPECT_EQ(status.state(), v1::ACCEPTED);
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
  ASSERT_TRUE(Save(&number).ok());
  daemon_->Release(0, number);
  daemon_->AwaitFrame(proto::FrameKind::kNotify);
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

TEST_F(ClientTest, ASaveThatReachesNoDaemonTakesANumberAllTheSame) {
  StartDaemon();
  OpenAndRegister();
  uint64_t number = 0;
  ASSERT_TRUE(Save(&number).ok());
  daemon_->Release(0, number);
  daemon_->AwaitFrame(proto::FrameKind::kNotify);
  daemon_->Stop();
  uint64_t before = 0;
  absl::Status status;
  do {  // those that begin before the client has seen the connection end fail for another reason
    before = number;
    status = Save(&number, /*timeout_ms=*/20);
    EXPECT_EQ(number, before + 1);
  } while (BlameOf(status).reason != "DISCONNECTED");
  v1::SaveStatus over;
  EXPECT_TRUE(client_->saves().Wait(number, v1::COMMITTED, After(0), &over).ok());
  EXPECT_EQ(over.state(), v1::FAILED);
}

TEST_F(ClientTest, AnOutageCostsOneWait) {
  StartDaemon();
  OpenAndRegister();
  daemon_->Stop();
  uint64_t number = 0;
  absl::Status status;
  do {  // as above
    status = Save(&number, /*timeout_ms=*/20);
  } while (BlameOf(status).reason != "DISCONNECTED");
  v1::SaveRequest request;
  request.set_step(101);
  status = client_->saves().Save(request, {}, kNever, &number);
  EXPECT_EQ(BlameOf(status).reason, "DISCONNECTED") << "and not never";

  daemon_->Start();
  ASSERT_TRUE(client_->session().AwaitConnected(After(kLongMs)).ok());
  EXPECT_TRUE(Save(&number).ok());
  daemon_->Release(0, number);
}

TEST_F(ClientTest, WaitAsksOverARestart) {
  std::atomic<int> asked{0};
  StartDaemon({.on_wait = [&](const v1::WaitRequest& request, v1::SaveStatus* status) {
    if (++asked == 1) return FakeAnswer{kUnavailable, ""};
    status->set_state(v1::COMMITTED);
    status->set_attempt("e7-a1");
    return FakeAnswer{};
  }});
  OpenAndRegister();
  uint64_t number = 0;
  ASSERT_TRUE(Save(&number).ok());
  daemon_->Release(0, number);
  v1::SaveStatus status;
  ASSERT_TRUE(client_->saves().Wait(number, v1::COMMITTED, After(kLongMs), &status).ok());
  EXPECT_EQ(status.state(), v1::COMMITTED);
  EXPECT_EQ(status.attempt(), "e7-a1");
  EXPECT_EQ(asked, 2);
}

// What the page says is no answer to a question that was asked before it said so: attempt and times come from the daemon.
TEST_F(ClientTest, ASaveThatIsCommittedDuringALostQuestionIsAskedAboutAgain) {
  std::atomic<int> asked{0};
  std::atomic<uint64_t> number{0};
  StartDaemon({.on_wait = [&](const v1::WaitRequest&, v1::SaveStatus* status) {
    if (++asked == 1) {
      daemon_->SetState(number, v1::COMMITTED);
      return FakeAnswer{kUnavailable, ""};
    }
    status->set_state(v1::COMMITTED);
    status->set_attempt("e7-a1");
    return FakeAnswer{};
  }});
  OpenAndRegister();
  uint64_t issued = 0;
  ASSERT_TRUE(Save(&issued).ok());
  number = issued;
  v1::SaveStatus status;
  ASSERT_TRUE(client_->saves().Wait(issued, v1::COMMITTED, After(kLongMs), &status).ok());
  EXPECT_EQ(status.attempt(), "e7-a1");
  EXPECT_EQ(asked, 2);
}

TEST_F(ClientTest, PollingASaveInFlightAsksNobody) {
  std::atomic<int> asked{0};
  StartDaemon({.on_wait = [&](const v1::WaitRequest&, v1::SaveStatus*) { return ++asked, FakeAnswer{}; }});
  OpenAndRegister();
  uint64_t number = 0;
  ASSERT_TRUE(Save(&number).ok());
  v1::SaveStatus status;
  EXPECT_EQ(BlameOf(client_->saves().Wait(number, v1::COMMITTED, After(0), &status)).reason, "NOT_YET");
  EXPECT_EQ(BlameOf(client_->saves().Wait(99, v1::COMMITTED, After(0), &status)).reason, "NO_SUCH_SAVE");
  EXPECT_EQ(asked, 0);
}

TEST_F(ClientTest, AWaitAsksOnceThePageSaysThatTheSaveIsThere) {
  std::atomic<int> asked{0};
  StartDaemon({.on_wait = [&](const v1::WaitRequest&, v1::SaveStatus* status) {
    ++asked;
    status->set_state(v1::COMMITTED);
    status->set_attempt("e7-a1");
    return FakeAnswer{};
  }});
  OpenAndRegister();
  uint64_t number = 0;
  ASSERT_TRUE(Save(&number).ok());
  daemon_->SetState(number, v1::ACCEPTED);
  v1::SaveStatus status;
  EXPECT_EQ(BlameOf(client_->saves().Wait(number, v1::COMMITTED, After(30), &status)).reason, "NOT_YET");
  EXPECT_EQ(asked, 0);
  daemon_->SetState(number, v1::COMMITTED);
  ASSERT_TRUE(client_->saves().Wait(number, v1::COMMITTED, After(kLongMs), &status).ok());
  EXPECT_EQ(status.attempt(), "e7-a1");
  EXPECT_EQ(asked, 1);
}

// The page says that the save went on, and the daemon dies before it can be asked how far: that says nothing
// of the save.
TEST_F(ClientTest, PollingASaveWhoseDaemonHasDiedIsNoFailure) {
  StartDaemon({.on_wait = [](const v1::WaitRequest&, v1::SaveStatus*) {
    return FakeAnswer{kUnavailable, ""};
  }});
  OpenAndRegister();
  uint64_t number = 0;
  ASSERT_TRUE(Save(&number).ok());
  daemon_->SetState(number, v1::PERSISTED);
  v1::SaveStatus status;
  EXPECT_EQ(BlameOf(client_->saves().Wait(number, v1::PERSISTED, After(0), &status)).reason, "NOT_YET");
  EXPECT_EQ(status.state(), v1::ACCEPTED);
  daemon_->SetState(number, v1::COMMITTED);
  ASSERT_TRUE(client_->saves().Wait(number, v1::COMMITTED, After(0), &status).ok()) << "nothing takes that back";
  EXPECT_EQ(status.state(), v1::COMMITTED);
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

TEST_F(ClientTest, ShouldSaveFollowsTheIntervalAndTheWish) {
  StartDaemon();
  OpenAndRegister();
  EXPECT_FALSE(client_->ShouldSave(0, 10));
  EXPECT_TRUE(client_->ShouldSave(20, 10));
  EXPECT_FALSE(client_->ShouldSave(21, 10));
  EXPECT_EQ(daemon_->client_page().step_stored.load(), 21);
  daemon_->page().save_at = 23;
  EXPECT_FALSE(client_->ShouldSave(22, 0));
  EXPECT_TRUE(client_->ShouldSave(23, 0));
  EXPECT_EQ(daemon_->client_page().wishes_save.load(), 0u);
  client_->WishSave();
  EXPECT_EQ(daemon_->client_page().wishes_save.load(), 1u);
}

TEST_F(ClientTest, ClosingSaysGoodbye) {
  StartDaemon();
  OpenAndRegister();
  client_.reset();
  EXPECT_FALSE(daemon_->AwaitFrame(proto::FrameKind::kGoodbye).empty());
}

// A daemon that hangs does not hold a save's call beyond its time, nor the trainer beyond the watchdog's.
TEST_F(ClientTest, SilentDaemonCostsTheCallItsTimeoutAndThenTheWatchdogOpens) {
  StartDaemon({.on_save = [&](const v1::SaveRequest&, v1::SaveResponse*) {
    return FakeAnswer{kUnavailable, ""};
  }});
  SessionSpec spec = Spec();
  spec.limits.heartbeat_ms = 100;
  client_ = Client::Open(spec, After(kLongMs)).value();
  ASSERT_TRUE(Register().ok());
  uint64_t number = 0;
  EXPECT_FALSE(Save(&number, /*timeout_ms=*/10).ok());
  EXPECT_TRUE(client_->gate().Wait(0, After(kLongMs)).ok());
  EXPECT_EQ(daemon_->client_page().verdicts[number].load(),
            proto::PackSlot(number, static_cast<uint8_t>(proto::Verdict::kPoisoned)));
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
