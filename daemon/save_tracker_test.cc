#include "daemon/save_tracker.h"

#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

Verdict Of(uint64_t number, SaveState state) { return {.number = number, .step = 10, .state = state}; }

TEST(SaveTracker, WaitersHearOnceTheStateIsReached) {
  SaveTracker tracker;
  tracker.Update(1, Of(1, SaveState::kAccepted), {});
  int heard = 0;
  EXPECT_NE(tracker.Wait(1, 1, SaveState::kPersisted, [&](const auto& status) { heard += status.ok(); }), 0u);
  tracker.Update(1, Of(1, SaveState::kSnapshotted), {});
  EXPECT_EQ(heard, 0);
  tracker.Update(1, Of(1, SaveState::kPersisted), {});
  tracker.Update(1, Of(1, SaveState::kCommitted), {});
  EXPECT_EQ(heard, 1);
}

// A waiter for COMMITTED must not hang when the save is over otherwise.
TEST(SaveTracker, FailureAnswersEveryWait) {
  SaveTracker tracker;
  tracker.Update(1, Of(1, SaveState::kAccepted), {});
  v1::SaveState heard = v1::SAVE_STATE_UNSPECIFIED;
  tracker.Wait(1, 1, SaveState::kCommitted, [&](const auto& status) { heard = status->state(); });
  tracker.Update(1, Of(1, SaveState::kFailed), {});
  EXPECT_EQ(heard, v1::FAILED);
}

// What was decided stays: a late COMMITTED after FAILED would tell two stories.
TEST(SaveTracker, DecidedStatesStay) {
  SaveTracker tracker;
  EXPECT_TRUE(tracker.Update(1, Of(1, SaveState::kFailed), {}));
  EXPECT_FALSE(tracker.Update(1, Of(1, SaveState::kCommitted), {}));
  EXPECT_FALSE(tracker.Update(1, Of(1, SaveState::kAccepted), {}));
}

TEST(SaveTracker, StagesThatWerePassedUnseenHaveTimes) {
  SaveTracker tracker;
  tracker.Update(1, Of(1, SaveState::kAccepted), {});
  tracker.Update(1, Of(1, SaveState::kCommitted), {});
  const v1::SaveStatus committed = tracker.Status(1, Of(1, SaveState::kCommitted), {});
  EXPECT_GT(committed.snapshot_seconds(), 0);
  EXPECT_GT(committed.persist_seconds(), 0);
  EXPECT_GT(committed.commit_seconds(), 0);

  tracker.Update(1, Of(2, SaveState::kAccepted), {});
  tracker.Update(1, Of(2, SaveState::kFailed), {});
  EXPECT_EQ(tracker.Status(1, Of(2, SaveState::kFailed), {}).snapshot_seconds(), 0);
}

TEST(SaveTracker, UnknownSavesAndForgottenSessionsAnswer) {
  SaveTracker tracker;
  absl::Status heard;
  EXPECT_EQ(tracker.Wait(1, 5, SaveState::kCommitted, [&](const auto& status) { heard = status.status(); }),
            0u);
  EXPECT_EQ(heard.code(), absl::StatusCode::kNotFound);
  tracker.Update(1, Of(1, SaveState::kAccepted), {});
  tracker.WaitForStep(1, 10, SaveState::kCommitted, [&](const auto& status) { heard = status.status(); });
  tracker.Forget(1, absl::AbortedError("gone"));
  EXPECT_EQ(heard.code(), absl::StatusCode::kAborted);
}

}  // namespace
}  // namespace keepstep::daemon
