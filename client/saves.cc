#include "client/saves.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/failure.h"
#include "client/futex.h"
#include "client/thread.h"

namespace keepstep::client {
namespace {

constexpr size_t kCallSecondsKept = 256;

absl::Status UnknownSave(uint64_t number) {
  return MakeError(absl::StatusCode::kNotFound, "NO_SUCH_SAVE",
                   absl::StrCat("save ", number, " was never issued by this client, or long ago"));
}

absl::Status OutcomeOf(const v1::SaveStatus& status) {
  return status.state() == v1::FAILED && status.has_failure() ? FromFailure(status.failure())
                                                              : absl::OkStatus();
}

}  // namespace

Saves::Saves(Session* session, SaveLedger* ledger, Gate* gate, Sealer* sealer, Devices* devices,
             WindowSamples* samples, const Limits& limits)
    : session_(session),
      ledger_(ledger),
      gate_(gate),
      sealer_(sealer),
      devices_(devices),
      samples_(samples),
      limits_(limits) {
  retrier_ = StartThread("ks-retry", [this] { Retry(); });
}

Saves::~Saves() {
  stop_.Set();
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
  }
  wake_.notify_all();
  retrier_.join();
}

absl::Status Saves::Register(Declared declared, Deadline deadline) {
  std::lock_guard lock(register_mu_);
  if (absl::Status status = gate_->WaitAll(deadline); !status.ok()) return status;
  samples_->Forget();
  if (absl::Status status = Locate(devices_, &declared); !status.ok()) return status;
  return session_->Register(std::make_shared<const Declared>(std::move(declared)), deadline);
}

absl::Status Saves::Save(v1::SaveRequest request, absl::Span<void* const> streams, Deadline deadline,
                         uint64_t* number) {
  const auto begin = std::chrono::steady_clock::now();
  // One that reaches no daemon takes a number all the same: ranks agree on saves by counting their calls, and
  // another rank may have been in time for this one.
  const auto channel = session_->AwaitConnected(waited_in_vain_ ? After(0) : deadline);
  waited_in_vain_ = !channel.ok();
  std::shared_ptr<const Declared> declared;
  {
    std::lock_guard lock(register_mu_);
    declared = session_->declared();
    if (declared == nullptr) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "NOTHING_REGISTERED",
                       "register tensors before saving them");
    }
    std::shared_ptr<const SamplePlan> plan(declared, &declared->samples);
    auto issued = ledger_->Issue(request.step(), std::move(plan));
    if (!issued.ok()) return issued.status();
    *number = *issued;
  }
  if (!channel.ok()) {
    ledger_->Fail(*number, channel.status());
    return channel.status();
  }
  request.set_number(*number);
  // Before the ask: to the daemon an event that was not recorded yet is one that has nothing to wait for.
  const absl::Status marked =
      devices_->Mark(declared->allocations, streams, session_->info().maps_gpu_memory, &request);
  if (!marked.ok()) {
    ledger_->Fail(*number, marked);
    return marked;
  }
  samples_->Mark(*number, session_->window_samples(), declared);
  request.set_generation(session_->generation());
  const std::shared_ptr<SessionPages> asked = ledger_->pages();
  const bool sent = asked->AskSave(request.SerializeAsString());
  ledger_->Sample(*number);  // while the daemon looks at what it was asked
  sealer_->Wake();
  const bool accepted = sent && AwaitAccepted(*number, asked, deadline);
  const absl::Status status = accepted ? absl::OkStatus() : SendUntilAnswered(request, deadline);
  StoreCallSeconds(*number, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  if (BlameOf(status).reason == "OUTCOME_UNKNOWN") RetryLater(std::move(request));
  return status;
}

// What `asked` says of the save. False: nothing in time, or not that it is accepted; then the call says why.
bool Saves::AwaitAccepted(uint64_t number, const std::shared_ptr<SessionPages>& asked, Deadline deadline) {
  deadline = std::min(deadline, After(limits_.ask_ms));
  const std::atomic<uint64_t>& slot = asked->daemon().states[number % proto::kSaveSlots];
  while (true) {
    const uint32_t seen = asked->daemon().changes.load();
    if (proto::SlotNumber(slot.load()) == number) return ledger_->AcceptedOnPage(number);
    if (Expired(deadline)) return false;
    FutexWait(asked->daemon().changes, seen, RemainingMs(deadline, limits_.ask_ms), proto::kAnswerBit);
  }
}

absl::Status Saves::SendUntilAnswered(v1::SaveRequest request, Deadline deadline) {
  while (true) {
    auto channel = session_->AwaitConnected(deadline);
    if (ledger_->Answered(request.number())) {
      return OutcomeOf(ledger_->Status(request.number()).value_or(v1::SaveStatus()));
    }
    if (channel.ok()) {
      request.set_generation(session_->generation());
      v1::SaveResponse response;
      const absl::Status status =
          (*channel)->Save(request, std::min(deadline, After(limits_.rpc_ms)), &response);
      if (status.ok()) {
        Conclude(request, response);
        return status;
      }
      if (!OutcomeUnknown(status)) {
        ledger_->Fail(request.number(), status);
        return status;
      }
    }
    if (Expired(deadline) || stop_.Wait(RemainingMs(deadline, limits_.backoff_first_ms))) {
      return MakeError(absl::StatusCode::kDeadlineExceeded, "OUTCOME_UNKNOWN",
                       "the daemon has not answered; the gate stays shut until it does", "open");
    }
  }
}

void Saves::Conclude(const v1::SaveRequest& request, const v1::SaveResponse& response) {
  v1::SaveStatus status = response.status();
  status.set_number(request.number());
  ledger_->Apply(status);
  for (const v1::SaveStatus& verdict : response.verdicts()) ledger_->Apply(verdict);
}

absl::Status Saves::Wait(uint64_t number, v1::SaveState state, Deadline deadline, v1::SaveStatus* status) {
  // With no time at all the page alone answers, so that polling costs no RPC until there is something to
  // fetch.
  constexpr int64_t kFetchMs = 1'000;
  while (true) {
    const auto known = ledger_->Status(number);
    if (!known.has_value()) return UnknownSave(number);
    *status = *known;
    if (IsFinal(known->state())) return absl::OkStatus();
    if (known->state() >= state)
      return state == v1::ACCEPTED ? absl::OkStatus() : gate_->WaitSave(number, deadline);
    const bool reached = ledger_->PageState(number) >= state;
    if (reached && state == v1::ACCEPTED && ledger_->AcceptedOnPage(number)) continue;  // of unknown outcome so far
    if (!reached && AwaitPage(number, state, deadline)) continue;
    if (Expired(deadline) && !reached) {
      return MakeError(absl::StatusCode::kDeadlineExceeded, "NOT_YET",
                       absl::StrCat("save ", number, " has not got that far; it goes on"));
    }
    if (reached && ledger_->pages()->DaemonGone() && ledger_->EndedOnPage(number)) continue;
    const absl::Status asked = Ask(number, state, reached ? std::max(deadline, After(kFetchMs)) : deadline);
    // The page knows no times: it counts only once the daemon was asked about what it says.
    if (asked.ok() || (reached && ledger_->EndedOnPage(number))) continue;
    if (const auto now = ledger_->Status(number); now.has_value() && IsFinal(now->state())) continue;
    const bool not_there_yet = absl::IsNotFound(asked) && !ledger_->Answered(number);
    if (!not_there_yet && !OutcomeUnknown(asked) && !absl::IsDeadlineExceeded(asked)) return asked;
    if (reached && Expired(deadline)) {
      // The daemon may have died in between: what became of the save is learnt from the next one.
      return MakeError(
          absl::StatusCode::kDeadlineExceeded, "NOT_YET",
          absl::StrCat("save ", number, " went on, but the daemon does not say how far: ", asked.message()));
    }
    if (stop_.Wait(RemainingMs(deadline, limits_.backoff_first_ms)))
      return absl::CancelledError("the client is closing");
  }
}

// Until the save has got so far by the page, or is over. False: not soon, or the page cannot say; then a call has to ask.
// Most saves are over before one is needed: it costs both ends more processor time than all else of a small save.
bool Saves::AwaitPage(uint64_t number, v1::SaveState state, Deadline deadline) {
  const Deadline soon = std::min(deadline, After(limits_.page_ms));
  while (true) {
    const std::shared_ptr<SessionPages> pages = ledger_->pages();
    const uint32_t seen = pages->daemon().changes.load();
    const auto known = ledger_->Status(number);
    if (!known.has_value() || IsFinal(known->state())) return true;
    const v1::SaveState on_page = ledger_->PageState(number);
    if (on_page >= state) return true;
    if (on_page == v1::SAVE_STATE_UNSPECIFIED || pages->DaemonGone() || Expired(soon) || stop_.Wait(0)) return false;
    FutexWait(pages->daemon().changes, seen, RemainingMs(soon, limits_.futex_slice_ms), proto::kAllBits);
  }
}

// One question to the daemon. What it does not know after all is lost.
absl::Status Saves::Ask(uint64_t number, v1::SaveState state, Deadline deadline) {
  auto channel = session_->AwaitConnected(deadline);
  if (!channel.ok()) return channel.status();
  v1::WaitRequest request;
  request.set_number(number);
  request.set_state(std::max(state, v1::SNAPSHOTTED));  // nobody waits for less: Save answers at once
  v1::SaveStatus status;
  const absl::Status asked = (*channel)->Wait(request, std::min(deadline, After(limits_.rpc_ms)), &status);
  if (asked.ok()) {
    status.set_number(number);
    ledger_->Apply(status);
  } else if (absl::IsNotFound(asked) && ledger_->Answered(number)) {
    ledger_->Fail(number, MakeError(absl::StatusCode::kAborted, "LOST_BY_RESTART",
                                    "the daemon restarted and does not know the save", "commit"));
  }
  return asked;
}

void Saves::RetryLater(v1::SaveRequest request) {
  std::lock_guard lock(mu_);
  if (unknown_.size() == proto::kSaveSlots) {
    // The oldest has given its slot in the page away: it can only be over by now.
    unknown_.pop_front();
  }
  unknown_.push_back(std::move(request));
  wake_.notify_all();
}

void Saves::Retry() {
  while (true) {
    v1::SaveRequest request;
    {
      std::unique_lock lock(mu_);
      wake_.wait(lock, [&] { return stopping_ || !unknown_.empty(); });
      if (stopping_) return;
      request = std::move(unknown_.front());
      unknown_.pop_front();
    }
    const absl::Status status = SendUntilAnswered(request, After(limits_.rpc_ms));
    if (BlameOf(status).reason == "OUTCOME_UNKNOWN") RetryLater(std::move(request));
  }
}

void Saves::StoreCallSeconds(uint64_t number, double seconds) {
  std::lock_guard lock(mu_);
  call_seconds_[number] = seconds;
  if (call_seconds_.size() > kCallSecondsKept) call_seconds_.erase(call_seconds_.begin());
}

double Saves::CallSeconds(uint64_t number) const {
  std::lock_guard lock(mu_);
  auto found = call_seconds_.find(number);
  return found == call_seconds_.end() ? 0 : found->second;
}

}  // namespace keepstep::client
