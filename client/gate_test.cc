// The gate, the sealer and the watchdog with real threads and short limits.

#include "client/gate.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "client/failure.h"
#include "client/sealer.h"
#include "client/test_pages.h"
#include "client/watchdog.h"

namespace keepstep::client {
namespace {

constexpr int64_t kLongMs = 60'000;

Limits Short() {
  Limits limits;
  limits.heartbeat_ms = kLongMs;
  limits.progress_ms = kLongMs;
  limits.watchdog_period_ms = 5;
  limits.futex_slice_ms = 5;
  return limits;
}

class GateTest : public testing::Test {
 protected:
  GateTest() { ledger_.Install(pages_); }

  uint64_t IssueAndAccept() {
    const uint64_t number = ledger_.Issue(1, PlanOf({{0, weights_}})).value();
    ledger_.Sample(number);
    v1::SaveStatus status;
    status.set_number(number);
    status.set_state(v1::ACCEPTED);
    ledger_.Apply(status);
    return number;
  }

  std::array<std::byte, 256> weights_{};
  std::shared_ptr<TestPages> pages_ = std::make_shared<TestPages>();
  SaveLedger ledger_;
  Gate gate_{&ledger_, Short()};
};

TEST_F(GateTest, TimesOutWhileClosed) {
  IssueAndAccept();
  const absl::Status status = gate_.Wait(0, After(0));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(BlameOf(status).reason, "GATE_CLOSED");
  EXPECT_FALSE(gate_.IsOpen(0));
}

TEST_F(GateTest, RefusesAGroupThatDoesNotExist) {
  EXPECT_EQ(gate_.Wait(proto::kMaxGroups, kNever).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(GateTest, WakesWhenTheDaemonReleases) {
  const uint64_t number = IssueAndAccept();
  auto waiting = std::async(std::launch::async, [&] { return gate_.Wait(0, After(kLongMs)); });
  pages_->Release(0, number);
  EXPECT_TRUE(waiting.get().ok());
}

TEST_F(GateTest, SealerSealsWithoutAnyCall) {
  Sealer sealer(&ledger_, Short());
  const uint64_t number = IssueAndAccept();
  sealer.Wake();
  pages_->Release(0, number);
  EXPECT_TRUE(gate_.WaitSave(number, After(kLongMs)).ok());
  while (ledger_.Unsealed()) std::this_thread::yield();
  EXPECT_EQ(pages_->VerdictOf(number), proto::Verdict::kSealed);
}

TEST_F(GateTest, WatchdogOpensWhenTheDaemonEnds) {
  const uint64_t number = IssueAndAccept();
  Watchdog watchdog(&ledger_, Short());
  pages_->gone = true;
  ASSERT_TRUE(gate_.Wait(0, After(kLongMs)).ok());
  EXPECT_EQ(pages_->VerdictOf(number), proto::Verdict::kPoisoned) << "poisoned before the gate opened";
  EXPECT_EQ(ledger_.Status(number)->failure().reason(), "DAEMON_LOST");
}

TEST_F(GateTest, WatchdogOpensWithoutAHeartbeat) {
  const uint64_t number = IssueAndAccept();
  Limits limits = Short();
  limits.heartbeat_ms = 20;
  Watchdog watchdog(&ledger_, limits);
  ASSERT_TRUE(gate_.Wait(0, After(kLongMs)).ok());
  EXPECT_EQ(pages_->VerdictOf(number), proto::Verdict::kPoisoned);
  EXPECT_EQ(ledger_.Status(number)->failure().reason(), "DAEMON_STUCK");
}

// A daemon that lives but does not copy must not hang the trainer either.
TEST_F(GateTest, WatchdogOpensWithoutProgressThoughTheHeartBeats) {
  const uint64_t number = IssueAndAccept();
  Limits limits = Short();
  limits.progress_ms = 20;
  Watchdog watchdog(&ledger_, limits);
  ASSERT_TRUE(gate_.Wait(0, After(kLongMs)).ok());
  EXPECT_EQ(ledger_.Status(number)->failure().reason(), "DAEMON_STUCK");
  EXPECT_NE(ledger_.Status(number)->failure().message().find("copied nothing"), std::string::npos);
}

}  // namespace
}  // namespace keepstep::client
