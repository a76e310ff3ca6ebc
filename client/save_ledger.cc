#include "client/save_ledger.h"

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/failure.h"
#include "client/futex.h"

namespace keepstep::client {
namespace {

using proto::PackSlot;
using proto::Verdict;

constexpr size_t kMaxRecords = 256;
constexpr int kMaxInFlight = 2;

uint64_t Slot(uint64_t number, Verdict verdict) { return PackSlot(number, static_cast<uint8_t>(verdict)); }

}  // namespace

bool IsFinal(v1::SaveState state) {
  return state == v1::COMMITTED || state == v1::SKIPPED || state == v1::SUPERSEDED ||
         state == v1::CANCELLED || state == v1::FAILED;
}

absl::Status UpdatedDuringSave(absl::string_view fqn) {
  return MakeError(absl::StatusCode::kAborted, "UPDATED_DURING_SAVE",
                   absl::StrCat(fqn, " changed while it was being saved: call before_update before every update of "
                                     "registered tensors"),
                   "copy");
}

// over: no copy of this save's can matter any more. over ⇐ IsFinal(status.state).
struct SaveLedger::Record {
  uint64_t number = 0;
  std::shared_ptr<const SamplePlan> plan;
  std::map<uint32_t, std::vector<std::byte>> samples;  // of groups not yet compared; empty ones until `sampled`
  bool sampled = false;
  Verdict verdict = Verdict::kOpen;
  bool answered = false;
  bool over = false;
  v1::SaveStatus status;
};

SaveLedger::SaveLedger(GroupCheck* check) : check_(check) {}
SaveLedger::~SaveLedger() = default;

void SaveLedger::Install(std::shared_ptr<SessionPages> pages) {
  std::shared_ptr<SessionPages> old = this->pages();
  if (old != nullptr && old->DaemonGone()) {
    PoisonAndOpen(
        MakeError(absl::StatusCode::kAborted, "DAEMON_LOST", "the daemon ended during the save", "seal"));
  }
  std::lock_guard lock(mu_);
  pages_ = std::move(pages);
  for (auto& [number, record] : records_) {
    if (number + proto::kSaveSlots > issued_) {
      pages_->client().verdicts[number % proto::kSaveSlots] = Slot(number, record->verdict);
    }
  }
}

std::shared_ptr<SessionPages> SaveLedger::pages() const {
  std::lock_guard lock(mu_);
  return pages_;
}

absl::StatusOr<uint64_t> SaveLedger::Issue(int64_t step, std::shared_ptr<const SamplePlan> plan) {
  auto record = std::make_unique<Record>();
  for (const auto& [group, runs] : *plan) record->samples[group];
  record->plan = std::move(plan);
  std::lock_guard lock(mu_);
  const uint64_t number = issued_ + 1;
  const Record* holder = number > proto::kSaveSlots ? Find(number - proto::kSaveSlots) : nullptr;
  if (holder != nullptr && !holder->over && holder->verdict == Verdict::kOpen) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, "TOO_MANY_SAVES",
        absl::StrCat("save ", holder->number, " is still being copied: wait for it, or save less often"));
  }
  record->number = number;
  record->status.set_number(number);
  record->status.set_step(step);
  pages_->client().verdicts[number % proto::kSaveSlots] = Slot(number, Verdict::kOpen);
  records_[number] = std::move(record);
  issued_ = number;
  Forget();
  return number;
}

void SaveLedger::Sample(uint64_t number) {
  std::shared_ptr<const SamplePlan> plan;
  {
    std::lock_guard lock(mu_);
    const Record* record = Find(number);
    if (record == nullptr || record->over) return;
    plan = record->plan;
  }
  std::map<uint32_t, std::vector<std::byte>> samples;
  for (const auto& [group, runs] : *plan) samples[group] = TakeSamples(runs);
  {
    std::lock_guard lock(mu_);
    Record* record = Find(number);
    if (record == nullptr) return;
    record->sampled = true;
    if (!record->over && record->verdict == Verdict::kOpen) record->samples = std::move(samples);
  }
  Advance();
}

void SaveLedger::Apply(const v1::SaveStatus& status) {
  std::lock_guard lock(mu_);
  Record* record = Find(status.number());
  if (record == nullptr) return;
  record->answered = true;
  // Over on the page comes before its status does, which the answer brings.
  if (!IsFinal(record->status.state()) || record->status.state() == status.state()) {
    const v1::SaveStatus own = record->status;
    record->status = status;
    record->status.set_step(own.step());  // a daemon that has restarted may know the number alone
    // A verdict that this client reached by itself explains more than the daemon's echo of it.
    if (own.has_failure()) *record->status.mutable_failure() = own.failure();
  }
  if (IsFinal(status.state())) Finish(record);
  if (pages_ != nullptr) FutexWakeAll(pages_->daemon().changes);
}

void SaveLedger::Fail(uint64_t number, const absl::Status& cause) {
  std::lock_guard lock(mu_);
  Record* record = Find(number);
  if (record != nullptr && !record->over) FailRecord(record, cause);
}

void SaveLedger::Resumed(const v1::Opened& opened, bool restarted) {
  std::set<uint64_t> listed;
  for (const v1::SaveStatus& status : opened.unsettled()) {
    Apply(status);
    listed.insert(status.number());
  }
  const absl::Status lost = MakeError(absl::StatusCode::kAborted, "LOST_BY_RESTART",
                                      "the connection to the daemon broke before the save was safe", "seal");
  std::lock_guard lock(mu_);
  for (auto& [number, record] : records_) {
    if (record->over || listed.contains(number)) continue;
    // The daemon counts an unanswered save as issued and over, so it is never sent again. A sealed one may
    // have been committed: Wait asks.
    const bool sealed = record->answered && record->verdict == Verdict::kSealed;
    if (!record->answered || (restarted && !sealed)) FailRecord(record.get(), lost);
  }
}

std::optional<v1::SaveStatus> SaveLedger::Status(uint64_t number) const {
  std::lock_guard lock(mu_);
  const Record* record = Find(number);
  if (record == nullptr) return std::nullopt;
  return record->status;
}

bool SaveLedger::Answered(uint64_t number) const {
  std::lock_guard lock(mu_);
  const Record* record = Find(number);
  return record == nullptr || record->answered || IsFinal(record->status.state());
}

bool SaveLedger::Compared(uint64_t number) const {
  std::lock_guard lock(mu_);
  const Record* record = Find(number);
  return record == nullptr || record->samples.empty();
}

v1::SaveState SaveLedger::PageState(uint64_t number) const {
  std::lock_guard lock(mu_);
  return StateOnPage(number);
}

bool SaveLedger::AcceptedOnPage(uint64_t number) {
  std::lock_guard lock(mu_);
  Record* record = Find(number);
  if (record == nullptr || record->over) return false;
  const v1::SaveState state = StateOnPage(number);
  if (state < v1::ACCEPTED || state > v1::COMMITTED) return false;
  record->answered = true;
  if (record->status.state() < v1::ACCEPTED) record->status.set_state(v1::ACCEPTED);
  return true;
}

bool SaveLedger::EndedOnPage(uint64_t number) {
  std::lock_guard lock(mu_);
  Record* record = Find(number);
  if (record == nullptr || IsFinal(record->status.state())) return false;
  const v1::SaveState state = StateOnPage(number);
  if (!IsFinal(state) || (state != v1::COMMITTED && !pages_->DaemonGone())) return false;
  record->answered = true;
  record->status.set_state(state);
  if (state == v1::FAILED) {
    *record->status.mutable_failure() = ToFailure(MakeError(
        absl::StatusCode::kAborted, "DAEMON_LOST", "the save failed, and the daemon ended before it said why"));
  }
  Finish(record);
  return true;
}

v1::SaveState SaveLedger::StateOnPage(uint64_t number) const {
  const uint64_t slot = pages_->daemon().states[number % proto::kSaveSlots].load();
  if (proto::SlotNumber(slot) != number || !v1::SaveState_IsValid(proto::SlotValue(slot)))
    return v1::SAVE_STATE_UNSPECIFIED;
  return static_cast<v1::SaveState>(proto::SlotValue(slot));
}

Verdict SaveLedger::VerdictOf(uint64_t number) const {
  std::lock_guard lock(mu_);
  const Record* record = Find(number);
  return record == nullptr ? Verdict::kNone : record->verdict;
}

bool SaveLedger::TryClear(uint32_t group) {
  if (cleared_[group].load() >= issued_.load()) return true;
  std::lock_guard lock(mu_);
  bool clear = true;
  for (auto& [number, record] : records_) clear &= ClearGroup(record.get(), group);
  if (clear) cleared_[group] = issued_.load();
  return clear;
}

bool SaveLedger::ClearThrough(uint32_t group, uint64_t number) {
  std::lock_guard lock(mu_);
  bool clear = true;
  for (auto& [each, record] : records_) {
    if (each <= number) clear &= ClearGroup(record.get(), group);
  }
  return clear;
}

bool SaveLedger::Advance() {
  std::lock_guard lock(mu_);
  bool clear = true;
  for (auto& [number, record] : records_) {
    if (record->over) continue;
    ReadState(record.get());
    const bool cleared = ClearAll(record.get());
    // No group to be released: the page says when a rank without tensors is copied.
    const bool answered = record->plan->empty()
                              ? StateOnPage(number) >= v1::SNAPSHOTTED
                              : record->answered || StateOnPage(number) != v1::SAVE_STATE_UNSPECIFIED;
    if (cleared && answered && !record->over && record->verdict == Verdict::kOpen) Seal(record.get());
    clear &= cleared;
  }
  return clear;
}

bool SaveLedger::Unsealed() const {
  std::lock_guard lock(mu_);
  for (const auto& [number, record] : records_) {
    if (!record->over && record->verdict == Verdict::kOpen) return true;
  }
  return false;
}

void SaveLedger::PoisonAndOpen(const absl::Status& cause) {
  std::lock_guard lock(mu_);
  for (auto& [number, record] : records_) {
    if (!record->over && record->verdict == Verdict::kOpen) FailRecord(record.get(), cause);
  }
  forced_open_ = issued_;
  if (pages_ != nullptr) FutexWakeAll(pages_->daemon().changes);
}

bool SaveLedger::OwesCopy() const {
  std::lock_guard lock(mu_);
  int undecided = 0;
  for (const auto& [number, record] : records_) {
    if (record->over) continue;
    if (!record->samples.empty() && record->verdict == Verdict::kOpen && undecided < kMaxInFlight)
      return true;
    ++undecided;
  }
  return false;
}

bool SaveLedger::Released(const Record& record, uint32_t group) const {
  if (record.over || record.number <= forced_open_) return true;
  const bool answered = record.answered || StateOnPage(record.number) != v1::SAVE_STATE_UNSPECIFIED;
  return answered && pages_->daemon().released[group].load() >= record.number;
}

bool SaveLedger::ClearGroup(Record* record, uint32_t group) {
  auto samples = record->samples.find(group);
  if (samples == record->samples.end()) return true;
  if (!Released(*record, group)) return false;
  if (record->verdict == Verdict::kOpen && !record->over) {
    if (!record->sampled) return false;
    const std::string changed = FindChanged(record->plan->at(group), samples->second);
    absl::Status whole = changed.empty() ? absl::OkStatus() : UpdatedDuringSave(changed);
    if (whole.ok() && check_ != nullptr) whole = check_->Check(record->number, group);
    if (!whole.ok()) FailRecord(record, whole);
  }
  record->samples.erase(group);
  return true;
}

bool SaveLedger::ClearAll(Record* record) {
  bool clear = true;
  std::vector<uint32_t> groups;
  for (const auto& [group, samples] : record->samples) groups.push_back(group);
  for (uint32_t group : groups) clear &= ClearGroup(record, group);
  return clear;
}

void SaveLedger::ReadState(Record* record) {
  if (IsFinal(StateOnPage(record->number))) Finish(record);
}

void SaveLedger::Seal(Record* record) {
  SetVerdict(record, Verdict::kSealed);
  pages_->Notify();
}

// The memory of a save that is over may change and go: nothing is compared any more.
void SaveLedger::Finish(Record* record) {
  record->over = true;
  record->samples.clear();
}

void SaveLedger::FailRecord(Record* record, const absl::Status& cause) {
  if (record->verdict == Verdict::kOpen) {
    SetVerdict(record, Verdict::kPoisoned);
    if (pages_ != nullptr) pages_->Notify();
  }
  Finish(record);
  record->status.set_state(v1::FAILED);
  *record->status.mutable_failure() = ToFailure(cause);
  std::fprintf(stderr, "keepstep: the save of step %lld failed: %s\n",
               static_cast<long long>(record->status.step()), std::string(cause.message()).c_str());
}

void SaveLedger::SetVerdict(Record* record, Verdict verdict) {
  record->verdict = verdict;
  if (pages_ == nullptr) return;
  uint64_t open = Slot(record->number, Verdict::kOpen);
  pages_->client().verdicts[record->number % proto::kSaveSlots].compare_exchange_strong(
      open, Slot(record->number, verdict));
}

SaveLedger::Record* SaveLedger::Find(uint64_t number) const {
  auto found = records_.find(number);
  return found == records_.end() ? nullptr : found->second.get();
}

void SaveLedger::Forget() {
  while (records_.size() > kMaxRecords) records_.erase(records_.begin());
}

}  // namespace keepstep::client
