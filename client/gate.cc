#include "client/gate.h"

#include "absl/strings/str_cat.h"
#include "client/failure.h"
#include "client/futex.h"

namespace keepstep::client {

// The word is read before the condition, so that a change between the two ends the wait at once. The watchdog
// and the session change the condition without the word; the slice bounds what that costs.
template <typename Clear>
absl::Status Gate::WaitUntil(const Clear& clear, Deadline deadline) {
  while (true) {
    const std::shared_ptr<SessionPages> pages = ledger_->pages();
    const uint32_t seen = pages == nullptr ? 0 : pages->daemon().changes.load();
    if (clear()) return absl::OkStatus();
    if (Expired(deadline)) {
      return MakeError(absl::StatusCode::kDeadlineExceeded, "GATE_CLOSED",
                       "the daemon is still copying these tensors", "copy");
    }
    if (pages != nullptr)
      FutexWait(pages->daemon().changes, seen, RemainingMs(deadline, limits_.futex_slice_ms),
                proto::kReleaseBit);
  }
}

absl::Status Gate::Wait(uint32_t group, Deadline deadline) {
  if (group >= proto::kMaxGroups) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_GROUP",
                     absl::StrCat("group ", group, " is not below ", proto::kMaxGroups));
  }
  if (ledger_->TryClear(group)) return absl::OkStatus();
  return WaitUntil([&] { return ledger_->TryClear(group); }, deadline);
}

absl::Status Gate::WaitFor(const std::function<bool()>& opened, Deadline deadline) {
  return WaitUntil(opened, deadline);
}

absl::Status Gate::WaitAll(Deadline deadline) {
  return WaitUntil([&] { return ledger_->Advance(); }, deadline);
}

absl::Status Gate::WaitSave(uint64_t number, Deadline deadline) {
  const auto compared = [&] {
    ledger_->Advance();
    return ledger_->Compared(number);
  };
  return WaitUntil(compared, deadline);
}

bool Gate::IsOpen(uint32_t group) { return group < proto::kMaxGroups && ledger_->TryClear(group); }

}  // namespace keepstep::client
