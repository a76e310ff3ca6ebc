// A save that the daemon makes for ranks that have died with their memory whole (docs/gpu.md, "Crash flush"): its number
// is the next one, all ranks arrive at once, and from there on it is a save as any other.

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/logic/coordinator.h"
#include "daemon/logic/failures.h"
#include "storage/attempt.h"

namespace keepstep::daemon {

std::optional<Failure> Coordinator::RescueRefusal(int64_t step) const {
  using Code = absl::StatusCode;
  if (draining_) return Draining();
  if (!gate_.RescueMayStart())
    return MakeFailure(Code::kAborted, "STALE_EPOCH", "a rank was not dead, or a new run had claimed the job", "rescue");
  if (step < 0 || step > storage::kMaxStep) {
    return MakeFailure(Code::kInvalidArgument, "BAD_STEP", absl::StrCat("step ", step, " is out of range"), "rescue");
  }
  for (const auto& [id, session] : world_.sessions) {
    if (session.fingerprint.empty()) return NotRegistered(session.rank);
  }
  int64_t newest = HasCommits() ? last_step_ : -1;
  for (const auto& [id, session] : world_.sessions) {
    if (!HasCommits() && session.loaded && session.loaded->found) newest = std::max(newest, session.loaded->step);
  }
  if (Exists(step) || step <= newest) {
    return MakeFailure(Code::kAlreadyExists, "STEP_EXISTS",
                       Exists(step) ? absl::StrCat("step ", step, " is saved already, or being saved")
                                    : absl::StrCat("step ", step, " is not newer than step ", newest, ", which is saved"),
                       "rescue");
  }
  return std::nullopt;
}

void Coordinator::OnRescueRequested(const RescueRequested& request) {
  if (std::optional<Failure> failure = RescueRefusal(request.step)) {
    outbox_.Emit(RescueRefused{*std::move(failure)});
    return;
  }
  uint64_t number = records_.empty() ? lost_up_to_ : std::max(records_.rbegin()->first, lost_up_to_);
  for (const auto& [id, session] : world_.sessions) number = std::max(number, session.last_number);
  ++number;
  Record& record = records_[number];
  record.asked = true;
  record.step = request.step;
  record.save = std::make_shared<SaveMachine>(limits_, outbox_, static_cast<SaveOwner&>(*this),
                                              SaveMachine::Spec{.number = number,
                                                                .step = request.step,
                                                                .epoch = world_.epoch,
                                                                .attempt = NewAttempt(number),
                                                                .world_size = world_.size,
                                                                .rescue = true},
                                              start_unix_ms_);
  saves_.push_back(record.save);
  outbox_.Emit(RescueStarted{number, request.step, record.save->spec().attempt});
  const std::shared_ptr<SaveMachine> save = record.save;
  for (auto& [id, session] : world_.sessions) {
    session.releases.Begin(number);
    session.last_number = number;
    session.saved = true;
    record.asked_by.insert(id);
    save->OnArrived(session.rank, id, session.fingerprint);
  }
  StartQueued();
}

}  // namespace keepstep::daemon
