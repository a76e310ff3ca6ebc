// The rules of save_ledger.h on plain memory: no daemon, no threads.

#include "client/save_ledger.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>

#include "client/failure.h"
#include "client/test_pages.h"

namespace keepstep::client {
namespace {

using proto::Verdict;

v1::SaveStatus StatusOf(uint64_t number, v1::SaveState state) {
  v1::SaveStatus status;
  status.set_number(number);
  status.set_state(state);
  return status;
}

class SaveLedgerTest : public testing::Test {
 protected:
  SaveLedgerTest() { ledger_.Install(pages_); }

  uint64_t Issue() {
    const uint64_t number = IssueUnsampled();
    ledger_.Sample(number);
    return number;
  }
  uint64_t IssueUnsampled() { return ledger_.Issue(100, PlanOf({{0, weights_}, {1, moments_}})).value(); }
  uint64_t IssueAndAccept() {
    const uint64_t number = Issue();
    ledger_.Apply(StatusOf(number, v1::ACCEPTED));
    return number;
  }

  std::array<std::byte, 256> weights_{}, moments_{};
  std::shared_ptr<TestPages> pages_ = std::make_shared<TestPages>();
  SaveLedger ledger_;
};

TEST_F(SaveLedgerTest, GateIsOpenWithoutSaves) { EXPECT_TRUE(ledger_.TryClear(0)); }

TEST_F(SaveLedgerTest, GateOpensPerGroupAsItIsReleased) {
  const uint64_t number = IssueAndAccept();
  EXPECT_FALSE(ledger_.TryClear(0));
  pages_->daemon_page.released[0] = number;
  EXPECT_TRUE(ledger_.TryClear(0));
  EXPECT_FALSE(ledger_.TryClear(1));
  EXPECT_TRUE(ledger_.TryClear(2)) << "group 2 is no part of the save";
}

// The daemon may have taken a save whose answer was lost, so its page alone opens nothing.
TEST_F(SaveLedgerTest, GateStaysShutUntilTheDaemonHasAnswered) {
  const uint64_t number = Issue();
  pages_->daemon_page.released[0] = number;
  EXPECT_FALSE(ledger_.TryClear(0));
  ledger_.Apply(StatusOf(number, v1::ACCEPTED));
  EXPECT_TRUE(ledger_.TryClear(0));
}

TEST_F(SaveLedgerTest, SealsWhenEveryGroupIsReleased) {
  const uint64_t number = IssueAndAccept();
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kOpen);
  pages_->daemon_page.released[0] = number;
  EXPECT_FALSE(ledger_.Advance());
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kOpen);
  pages_->daemon_page.released[1] = number;
  EXPECT_TRUE(ledger_.Advance());
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kSealed);
  EXPECT_EQ(pages_->notices, 1);
}

TEST_F(SaveLedgerTest, ARankWithoutTensorsSealsWhenItIsCopiedAndNotBefore) {
  const uint64_t number = ledger_.Issue(100, PlanOf({})).value();
  ledger_.Sample(number);
  ledger_.Apply(StatusOf(number, v1::ACCEPTED));
  ledger_.Advance();
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kOpen);
  pages_->SetState(number, v1::SNAPSHOTTED);
  ledger_.Advance();
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kSealed);
}

// A daemon that copies everything before the trainer has taken its samples.
TEST_F(SaveLedgerTest, ASaveThatIsReleasedBeforeItIsSampledIsSealedThen) {
  const uint64_t number = IssueUnsampled();
  ledger_.Apply(StatusOf(number, v1::ACCEPTED));
  pages_->daemon_page.released[0] = pages_->daemon_page.released[1] = number;
  EXPECT_FALSE(ledger_.Advance());
  EXPECT_FALSE(ledger_.TryClear(0));
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kOpen);
  ledger_.Sample(number);
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kSealed);
  EXPECT_TRUE(ledger_.TryClear(0));
}

TEST_F(SaveLedgerTest, SamplesOfASaveThatTheWatchdogGaveUpKeepNoGateShut) {
  const uint64_t number = IssueUnsampled();
  ledger_.PoisonAndOpen(absl::AbortedError("the watchdog"));
  EXPECT_TRUE(ledger_.TryClear(0));
  ledger_.Sample(number);
  EXPECT_TRUE(ledger_.TryClear(0));
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kPoisoned);
}

// An update that ignores the gate must not end in a checkpoint of two steps.
TEST_F(SaveLedgerTest, ChangedTensorPoisonsTheSaveAndNamesIt) {
  const uint64_t number = IssueAndAccept();
  moments_.fill(std::byte{1});
  pages_->daemon_page.released[0] = pages_->daemon_page.released[1] = number;
  ledger_.Advance();
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kPoisoned);
  const v1::SaveStatus status = ledger_.Status(number).value();
  EXPECT_EQ(status.state(), v1::FAILED);
  EXPECT_EQ(status.failure().reason(), "UPDATED_DURING_SAVE");
  EXPECT_NE(status.failure().message().find("tensor-1"), std::string::npos);
  v1::SaveStatus echo = StatusOf(number, v1::FAILED);
  echo.mutable_failure()->set_reason("POISONED");
  ledger_.Apply(echo);
  EXPECT_EQ(ledger_.Status(number)->failure().reason(), "UPDATED_DURING_SAVE");
}

// A trainer that goes on the moment its gate opens must not make its own save look torn.
TEST_F(SaveLedgerTest, UpdateAfterTheGateOpenedIsNoMismatch) {
  const uint64_t number = IssueAndAccept();
  pages_->daemon_page.released[0] = number;
  ASSERT_TRUE(ledger_.TryClear(0));
  weights_.fill(std::byte{1});
  pages_->daemon_page.released[1] = number;
  ledger_.Advance();
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kSealed);
}

TEST_F(SaveLedgerTest, WatchdogPoisonsThenOpens) {
  const uint64_t number = IssueAndAccept();
  ledger_.PoisonAndOpen(absl::AbortedError("gone"));
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kPoisoned);
  EXPECT_TRUE(ledger_.TryClear(0));
  pages_->daemon_page.released[0] = pages_->daemon_page.released[1] = number;
  ledger_.Advance();
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kPoisoned) << "a verdict changes once";
  EXPECT_FALSE((IssueAndAccept(), ledger_.TryClear(0))) << "the opening is for saves issued before it";
}

TEST_F(SaveLedgerTest, WatchdogLeavesASealedSaveAlone) {
  const uint64_t number = IssueAndAccept();
  pages_->daemon_page.released[0] = pages_->daemon_page.released[1] = number;
  ledger_.Advance();
  ledger_.PoisonAndOpen(absl::AbortedError("gone"));
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kSealed);
  EXPECT_NE(ledger_.Status(number)->state(), v1::FAILED);
}

TEST_F(SaveLedgerTest, SkippedSaveOpensItsGates) {
  const uint64_t number = Issue();
  ledger_.Apply(StatusOf(number, v1::SKIPPED));
  EXPECT_TRUE(ledger_.TryClear(0));
}

TEST_F(SaveLedgerTest, RefusedSaveOpensItsGatesAndIsPoisoned) {
  const uint64_t number = Issue();
  ledger_.Fail(number, MakeError(absl::StatusCode::kAlreadyExists, "STEP_EXISTS", "step 100 exists"));
  EXPECT_TRUE(ledger_.TryClear(0));
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kPoisoned);
  EXPECT_EQ(ledger_.Status(number)->failure().reason(), "STEP_EXISTS");
}

TEST_F(SaveLedgerTest, OpenVerdictsMoveToTheNewPage) {
  const uint64_t sealed = IssueAndAccept();
  pages_->daemon_page.released[0] = pages_->daemon_page.released[1] = sealed;
  ledger_.Advance();
  const uint64_t open = IssueAndAccept();
  auto fresh = std::make_shared<TestPages>();
  ledger_.Install(fresh);
  EXPECT_EQ(fresh->VerdictOf(sealed), Verdict::kSealed);
  EXPECT_EQ(fresh->VerdictOf(open), Verdict::kOpen);
}

TEST_F(SaveLedgerTest, DeadDaemonsSavesArePoisonedBeforeTheNewPageShowsThem) {
  const uint64_t number = IssueAndAccept();
  pages_->gone = true;
  auto fresh = std::make_shared<TestPages>();
  ledger_.Install(fresh);
  EXPECT_EQ(fresh->VerdictOf(number), Verdict::kPoisoned);
  EXPECT_EQ(ledger_.Status(number)->failure().reason(), "DAEMON_LOST");
}

// The new page starts released up to the client's count: a save that is sent again after that would be copied
// with its gate open.
TEST_F(SaveLedgerTest, UnansweredSaveFailsWhenTheSessionResumes) {
  const uint64_t number = Issue();
  ledger_.Resumed(v1::Opened(), /*restarted=*/false);
  EXPECT_TRUE(ledger_.Answered(number));
  EXPECT_EQ(ledger_.Status(number)->failure().reason(), "LOST_BY_RESTART");
  EXPECT_EQ(pages_->VerdictOf(number), Verdict::kPoisoned);
}

TEST_F(SaveLedgerTest, ResumedSessionSettlesWhatTheDaemonAccountsFor) {
  const uint64_t committed = IssueAndAccept(), lost = IssueAndAccept();
  v1::Opened opened;
  *opened.add_unsettled() = StatusOf(committed, v1::COMMITTED);
  ledger_.Resumed(opened, /*restarted=*/true);
  EXPECT_EQ(ledger_.Status(committed)->state(), v1::COMMITTED);
  EXPECT_EQ(ledger_.Status(lost)->state(), v1::FAILED);
}

TEST_F(SaveLedgerTest, RefusesASaveThatWouldTakeTheSlotOfOneInFlight) {
  for (int i = 0; i < proto::kSaveSlots; ++i) IssueAndAccept();
  EXPECT_EQ(ledger_.Issue(1, PlanOf({{0, weights_}})).status().code(), absl::StatusCode::kResourceExhausted);
}

// A daemon that is told to end commits what is in flight, and is gone before anybody asks it.
TEST_F(SaveLedgerTest, ThePageOfADaemonThatIsGoneHasTheLastWord) {
  const uint64_t open = IssueAndAccept(), committed = IssueAndAccept(), failed = IssueAndAccept();
  pages_->SetState(committed, v1::COMMITTED);
  pages_->SetState(failed, v1::FAILED);
  EXPECT_FALSE(ledger_.EndedOnPage(failed)) << "a daemon that lives is asked why";
  pages_->gone = true;
  EXPECT_FALSE(ledger_.EndedOnPage(open));
  EXPECT_TRUE(ledger_.EndedOnPage(committed));
  EXPECT_TRUE(ledger_.EndedOnPage(failed));
  EXPECT_EQ(ledger_.Status(committed)->state(), v1::COMMITTED);
  EXPECT_EQ(ledger_.Status(failed)->failure().reason(), "DAEMON_LOST");
  EXPECT_FALSE(IsFinal(ledger_.Status(open)->state()));
}

TEST_F(SaveLedgerTest, ThirdSaveThatWaitsForTwoUndecidedOwesNoCopy) {
  for (int i = 0; i < 2; ++i) {
    const uint64_t number = IssueAndAccept();
    EXPECT_TRUE(ledger_.OwesCopy());
    pages_->daemon_page.released[0] = pages_->daemon_page.released[1] = number;
    ledger_.Advance();
    EXPECT_FALSE(ledger_.OwesCopy());
  }
  IssueAndAccept();
  EXPECT_FALSE(ledger_.OwesCopy());
}

}  // namespace
}  // namespace keepstep::client
