// Saves of a client against the scripted daemon: asks, lost answers, outages, waits.

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "client/client_fixture.h"
#include "client/failure.h"

namespace keepstep::client {
namespace {

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

TEST_F(ClientTest, ASaveThatReachesNoDaemonTakesANumberAllTheSame) {
  StartDaemon();
  OpenAndRegister();
  uint64_t number = 0;
  SaveAndSeal(&number);
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

}  // namespace
}  // namespace keepstep::client
