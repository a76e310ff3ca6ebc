#include "daemon/logic/coordinator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/logic/failures.h"
#include "storage/attempt.h"

namespace keepstep::daemon {

Coordinator::Coordinator(const Limits& limits, Outbox& outbox, World& world, EpochGate& gate, uint64_t seed,
                         int64_t start_unix_ms)
    : limits_(limits),
      outbox_(outbox),
      world_(world),
      gate_(gate),
      random_(seed),
      start_unix_ms_(start_unix_ms) {}

Coordinator::~Coordinator() = default;

// splitmix64: every value once per 2^64.
std::string Coordinator::NewAttempt(uint64_t number) {
  uint64_t mixed = random_ += 0x9e3779b97f4a7c15;
  mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
  mixed ^= mixed >> 31;
  return storage::AttemptName(
      {.epoch = world_.epoch, .counter = static_cast<int64_t>(number), .random = mixed});
}

void Coordinator::OnSaveRequested(const SaveRequested& request) {
  Session* session = world_.Find(request.session);
  if (session == nullptr || request.number == 0) {
    const Failure failure = session == nullptr
                                ? StaleEpoch(world_.epoch)
                                : MakeFailure(absl::StatusCode::kInvalidArgument, "BAD_SAVE_NUMBER",
                                              "Saves are numbered from 1.", "accept");
    outbox_.Emit(AnswerSave{.session = request.session,
                            .number = request.number,
                            .status = {.number = request.number,
                                       .step = request.step,
                                       .state = SaveState::kFailed,
                                       .failure = failure}});
    return;
  }
  auto record = records_.find(request.number);
  if (record != records_.end() && record->second.asked_by.contains(session->id)) {
    Answer(*session, request.number, record->second);
    return;
  }
  const auto same = [&](const Held& held) {
    return held.request.session == request.session && held.request.number == request.number;
  };
  if (std::any_of(held_.begin(), held_.end(), same)) return;  // its answer will come
  const bool judged = record != records_.end() && (record->second.final || record->second.save);
  if (judged || gate_.SavesMayStart()) {
    Arrive(*session, request);
    return;
  }
  session->releases.Begin(request.number);
  if (std::count_if(held_.begin(), held_.end(), [&](const Held& held) {
        return held.request.session == session->id;
      }) >= limits_.max_arrivals_held) {
    Arrive(*session, request);  // refused there: the world is not complete
    return;
  }
  held_.push_back({request, outbox_.now()});
}

void Coordinator::Pump() {
  while (gate_.SavesMayStart() && !held_.empty()) {
    const SaveRequested request = held_.front().request;
    held_.pop_front();
    if (Session* session = world_.Find(request.session)) Arrive(*session, request);
  }
  for (const auto& save : saves_) save->OnRegistrationsChanged();
}

void Coordinator::Arrive(Session& session, const SaveRequested& request) {
  session.releases.Begin(request.number);
  session.last_number = std::max(session.last_number, request.number);
  session.saved = true;
  const uint64_t number = request.number;
  CheckSkipped(session);
  Record& record = RecordOf(request, session);
  record.asked_by.insert(session.id);
  if (record.save && !record.final && record.step != request.step) {
    record.save->Fail(MakeFailure(
        absl::StatusCode::kFailedPrecondition, "STEPS_DIFFER",
        absl::StrCat("Rank ", session.rank, " saves step ", request.step, " as save ", number,
                     ", another rank step ", record.step, ". Every rank must call save at the same steps."),
        "arrive", session.rank));
  }
  if (record.save && session.fingerprint.empty()) record.save->Fail(NotRegistered(session.rank));
  Answer(session, number, record);
  // Copies start after the answer is on its way, so that a caller never sees a state before ACCEPTED.
  std::shared_ptr<SaveMachine> save = record.save;
  if (record.final || (save && save->failing())) ReleaseAll(session, number);
  if (save && !record.final) save->OnArrived(session.rank, session.id, session.fingerprint);
  StartQueued();
}

// The first arrival decides what the save will be and which earlier verdicts it delivers.
Coordinator::Record& Coordinator::RecordOf(const SaveRequested& request, const Session& session) {
  Record& record = records_[request.number];
  if (record.asked) return record;
  record.asked = true;
  for (auto verdict = undelivered_.begin(); verdict != undelivered_.end();) {
    if (verdict->number < request.number) {
      record.earlier.push_back(std::move(*verdict));
      verdict = undelivered_.erase(verdict);
    } else {
      ++verdict;
    }
  }
  if (record.final) return record;
  record.step = request.step;
  if (std::optional<Failure> failure = Refusal(request, session)) {
    record.final = Verdict{.number = request.number,
                           .step = request.step,
                           .state = SaveState::kFailed,
                           .failure = *std::move(failure)};
    return record;
  }
  Admit(request.number, record, request.policy);
  return record;
}

std::optional<Failure> Coordinator::Refusal(const SaveRequested& request, const Session& session) {
  using Code = absl::StatusCode;
  if (draining_) return Draining();
  if (!gate_.SavesMayStart()) {
    const std::vector<int32_t> missing = world_.MissingRanks();
    return missing.empty() ? Recovering() : RanksMissing(missing, "accept");
  }
  if (request.step < 0 || request.step > storage::kMaxStep) {
    return MakeFailure(Code::kInvalidArgument, "BAD_STEP",
                       absl::StrCat("Step ", request.step, " is out of range."), "accept", session.rank);
  }
  if (request.number <= lost_up_to_) return LostByRestart(request.number);
  for (const auto& [id, other] : world_.sessions) {
    if (other.last_number > request.number) {
      return MakeFailure(
          Code::kFailedPrecondition, "SAVE_NOT_SENT",
          absl::StrCat("Rank ", other.rank, " went on to save ", other.last_number, " without save ",
                       request.number, ". Every rank must make the same saves."),
          "arrive", other.rank);
    }
  }
  if (session.fingerprint.empty()) return NotRegistered(session.rank);
  if (Exists(request.step)) {
    return MakeFailure(Code::kAlreadyExists, "STEP_EXISTS",
                       absl::StrCat("Step ", request.step, " is saved already, or being saved, by this run."),
                       "accept");
  }
  return std::nullopt;
}

bool Coordinator::Exists(int64_t step) const {
  return committed_steps_.contains(step) || std::any_of(saves_.begin(), saves_.end(), [&](const auto& save) {
           return save->spec().epoch == world_.epoch && save->spec().step == step && !save->failing() &&
                  !save->decided();
         });
}

void Coordinator::Admit(uint64_t number, Record& record, BusyPolicy policy) {
  const int64_t queued = std::count_if(saves_.begin(), saves_.end(),
                                       [](const auto& save) { return save->stage() == SaveStage::kQueued; });
  const bool busy = queued > 0 || InFlight() >= limits_.max_saves_in_flight;
  const bool skip =
      busy && (policy == BusyPolicy::kSkip || (policy == BusyPolicy::kSupersede && !Supersede(number)));
  if (skip || queued >= limits_.max_saves_queued) {
    record.final = Verdict{
        .number = number,
        .step = record.step,
        .state = SaveState::kSkipped,
        .failure = MakeFailure(
            absl::StatusCode::kAborted, "SKIPPED",
            absl::StrCat(InFlight(), " saves are still in flight; step ", record.step, " was skipped."),
            "accept")};
    return;
  }
  record.save = std::make_shared<SaveMachine>(limits_, outbox_, static_cast<SaveOwner&>(*this),
                                              SaveMachine::Spec{.number = number,
                                                                .step = record.step,
                                                                .epoch = world_.epoch,
                                                                .attempt = NewAttempt(number),
                                                                .world_size = world_.size},
                                              start_unix_ms_);
  saves_.push_back(record.save);
}

// Gives up the oldest save of which nothing has been copied. What has been started may have bytes on storage.
bool Coordinator::Supersede(uint64_t by) {
  for (const auto& save : saves_) {
    if (save->started() || save->failing() || save->decided()) continue;
    return save->Fail(
        MakeFailure(absl::StatusCode::kAborted, "SUPERSEDED",
                    absl::StrCat("Save ", save->spec().number, " gave way to save ", by, "."), "accept"),
        SaveState::kSuperseded);
  }
  return false;
}

int Coordinator::InFlight() const {
  return static_cast<int>(std::count_if(saves_.begin(), saves_.end(), [](const auto& save) {
    return save->stage() != SaveStage::kQueued && !save->decided();
  }));
}

void Coordinator::StartQueued() {
  if (starting_) return;  // Start may decide a save, which asks for the next one
  starting_ = true;
  for (auto save = saves_.begin(); save != saves_.end() && InFlight() < limits_.max_saves_in_flight; ++save) {
    if ((*save)->stage() == SaveStage::kQueued) (*save)->Start();
  }
  starting_ = false;
}

// Numbers come in order from each rank, so what it has gone past it will never send.
void Coordinator::CheckSkipped(const Session& session) {
  for (const auto& save : saves_) {
    const SaveMachine::Spec& spec = save->spec();
    if (spec.epoch != world_.epoch || spec.number >= session.last_number || save->arrived(session.rank))
      continue;
    save->Fail(
        MakeFailure(absl::StatusCode::kFailedPrecondition, "SAVE_NOT_SENT",
                    absl::StrCat("Rank ", session.rank, " went on to save ", session.last_number,
                                 " without save ", spec.number, ". Every rank must make the same saves."),
                    "arrive", session.rank));
  }
}

Verdict Coordinator::StatusFor(const Session& session, uint64_t number, const Record& record) const {
  if (record.final) return *record.final;
  const bool arrived = record.save->arrived(session.rank);
  return {.number = number,
          .step = record.step,
          .attempt = record.save->spec().attempt,
          .state = arrived ? record.save->rank_state(session.rank) : SaveState::kAccepted};
}

void Coordinator::Answer(const Session& session, uint64_t number, const Record& record) {
  outbox_.Emit(AnswerSave{.session = session.id,
                          .number = number,
                          .status = StatusFor(session, number, record),
                          .earlier = record.earlier});
}

void Coordinator::ReleaseAll(Session& session, uint64_t number) {
  for (Release& release : session.releases.AllDone(session.id, number)) outbox_.Emit(std::move(release));
}

void Coordinator::OnGroupCopied(const SaveMachine& save, int32_t rank, uint32_t group) {
  if (save.spec().epoch != world_.epoch) return;
  Session* session = world_.OfRank(rank);
  if (session == nullptr) return;
  for (Release& release : session->releases.GroupDone(session->id, save.spec().number, group)) {
    outbox_.Emit(std::move(release));
  }
}

void Coordinator::OnRankState(const SaveMachine& save, int32_t rank, SaveState state) {
  if (save.spec().epoch != world_.epoch) return;
  Session* session = world_.OfRank(rank);
  if (session == nullptr) return;
  outbox_.Emit(Report{.session = session->id,
                      .status = {.number = save.spec().number,
                                 .step = save.spec().step,
                                 .attempt = save.spec().attempt,
                                 .state = state}});
  if (state == SaveState::kSnapshotted) ReleaseAll(*session, save.spec().number);
}

void Coordinator::OnAllArrived(SaveMachine& save) {
  std::weak_ptr<SaveMachine> weak;
  for (const auto& known : saves_) {
    if (known.get() == &save) weak = known;
  }
  gate_.EnsureParent([weak](const absl::Status& status) {
    if (auto alive = weak.lock()) alive->OnParentKnown(status);
  });
}

void Coordinator::OnFailing(const SaveMachine& save) {
  if (save.spec().epoch != world_.epoch) return;
  auto record = records_.find(save.spec().number);
  if (record == records_.end()) return;
  for (SessionId id : record->second.asked_by) {
    if (Session* session = world_.Find(id)) ReleaseAll(*session, save.spec().number);
  }
}

void Coordinator::OnDecided(const SaveMachine& save, const Verdict& verdict) {
  if (save.uncertain()) untrusted_.insert(verdict.attempt);
  if (verdict.state == SaveState::kCommitted) keeper_->OnCommitted();
  if (save.spec().epoch != world_.epoch) return;
  ranks_have_committed_ = ranks_have_committed_ || verdict.state == SaveState::kCommitted;
  auto record = records_.find(verdict.number);
  if (record == records_.end() || record->second.final) return;
  Settle(verdict.number, record->second, verdict);
}

void Coordinator::Settle(uint64_t number, Record& record, Verdict verdict) {
  const bool committed = verdict.state == SaveState::kCommitted;
  if (committed) {
    committed_steps_.insert(verdict.step);
    last_step_ = verdict.step;
    last_attempt_ = verdict.attempt;
  }
  for (uint64_t ticket : record.cancel_tickets) {
    outbox_.Emit(AnswerCancel{.ticket = ticket, .cancelled = verdict.state == SaveState::kCancelled ? 1 : 0});
  }
  record.cancel_tickets.clear();
  for (SessionId id : record.asked_by) {
    Session* session = world_.Find(id);
    if (session == nullptr) continue;
    outbox_.Emit(Report{.session = id, .status = verdict});
    ReleaseAll(*session, number);
  }
  undelivered_.push_back(verdict);
  record.final = std::move(verdict);
}

void Coordinator::Forget() {
  saves_.remove_if([](const auto& save) { return save->over(); });
  while (records_.size() > limits_.verdict_history && records_.begin()->second.final) {
    lost_up_to_ = std::max(lost_up_to_, records_.begin()->first);
    records_.erase(records_.begin());
  }
  if (undelivered_.size() > limits_.verdict_history) {
    undelivered_.erase(undelivered_.begin(), undelivered_.end() - limits_.verdict_history);
  }
}

}  // namespace keepstep::daemon
