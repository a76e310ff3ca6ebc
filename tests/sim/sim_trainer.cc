#include "tests/sim/sim_trainer.h"

#include <algorithm>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"

namespace keepstep::sim {

namespace {

constexpr int64_t kWatchdogMs = 500;  // behind a gate
constexpr int64_t kRetryMs = 700;     // of a Save call
constexpr int64_t kLingerMs = 60;     // queued work outlives its process for so long at most

}  // namespace

SimTrainer::SimTrainer(int32_t rank, const TrainerPlan& plan, SimDaemon& daemon, TrainerHost& host,
                       Checker& checker, Clock& clock, Random& random)
    : rank_(rank),
      plan_(plan),
      daemon_(daemon),
      host_(host),
      checker_(checker),
      clock_(clock),
      random_(random) {
  for (uint8_t& byte : nonce_) byte = static_cast<uint8_t>(random_.Next());
}

void SimTrainer::Die() {
  alive_ = false;
  if (session_ != 0) daemon_.Died(session_);
  if (asking_ != 0) daemon_.Died(asking_);
  if (random_.Chance(0.4)) Linger();
  host_.OnExit(*this);
}

// Closes its client.
void SimTrainer::Exit() {
  alive_ = false;
  if (session_ != 0) daemon_.Left(session_);
  if (asking_ != 0) daemon_.Left(asking_);
  host_.OnExit(*this);
}

// What was queued on the GPU goes on: the update that was running ends, or the next one begins and ends, where its
// gate is open. Nobody notes it.
void SimTrainer::Linger() {
  const auto torn = std::find(content_.begin(), content_.end(), kTorn);
  if (torn != content_.end()) {
    clock_.After(random_.Between(0, kLingerMs),
                 [this, group = torn - content_.begin()] { EndUpdate(group, step_ + 1); });
    return;
  }
  const auto behind = std::find(content_.begin(), content_.end(), step_);
  if (state_ != State::kTraining || behind == content_.end()) return;
  const size_t group = behind - content_.begin();
  if (released_[group] < issued_) return;
  const int64_t begins_ms = random_.Between(0, kLingerMs);
  clock_.After(begins_ms, [this, group] { BeginUpdate(group); });
  clock_.After(begins_ms + random_.Between(0, 20), [this, group] { EndUpdate(group, step_ + 1); });
}

void SimTrainer::BeginUpdate(size_t group) {
  ++begun_[group];
  content_[group] = kTorn;
}

void SimTrainer::EndUpdate(size_t group, int64_t step) {
  content_[group] = step;
  ++done_[group];
}

// As ks_note_step: once a step's updates are queued, which may have run or not.
void SimTrainer::Note(int64_t step) {
  if (!notes_.empty() && notes_.front().step == step) return;
  notes_.push_front({step, generation_, begun_});
  if (notes_.size() > proto::kFlightSlots) notes_.pop_back();
}

proto::FlightRecord SimTrainer::Record() const {
  proto::FlightRecord record;
  record.state = notes_.empty() ? proto::FlightState::kIdle : proto::FlightState::kRecording;
  std::copy(begun_.begin(), begun_.end(), record.words.begun);
  std::copy(done_.begin(), done_.end(), record.words.done);
  for (const NoteOfStep& each : notes_) {
    proto::FlightNote& note = record.notes.emplace_back();
    note.slot.step = each.step;
    note.slot.generation = each.generation;
    std::copy(each.expected.begin(), each.expected.end(), note.slot.expected);
  }
  return record;
}

void SimTrainer::Freeze(int64_t for_ms) {
  if (!alive_ || frozen_) return;
  frozen_ = true;
  clock_.After(for_ms, [this] {
    if (!alive_) return;
    frozen_ = false;
    for (const auto& what : std::exchange(while_frozen_, {})) {
      if (alive_) what();
    }
  });
}

void SimTrainer::LoseStream() {
  if (!alive_ || session_ == 0) return;
  daemon_.Send(daemon::SessionLost{session_});
  if (random_.Chance(0.3)) return;  // stays lost until it expires
  After(random_.Between(10, 800), [this] {
    if (session_ != 0 && asking_ == 0) Open();
  });
}

void SimTrainer::OnDaemonDied() {
  After(random_.Between(0, 3), [this] {
    Poison();
    session_ = asking_ = 0;
    opening_ = false;
    After(random_.Between(5, 60), [this] { Open(); });
  });
}

// POISONED first, then the gate: what is updated from here on belongs to no open save.
void SimTrainer::Poison() {
  for (auto& [number, word] : words_) {
    if (word != Word::kOpen) continue;
    word = Word::kPoisoned;
    if (session_ != 0) daemon_.Send(daemon::VerdictSeen{session_, number, false});
  }
  released_.fill(issued_);
  Wake();
}

void SimTrainer::Open() {
  if (asking_ != 0) return;
  if (!daemon_.up()) {
    if (opening_) return;
    opening_ = true;
    After(random_.Between(20, 150), [this] {
      opening_ = false;
      Open();
    });
    return;
  }
  asking_ = host_.NewSession(*this);
  life_of_daemon_ = daemon_.life();
  daemon_.Send(daemon::SessionOpened{.session = asking_,
                                     .rank = rank_,
                                     .world_size = plan_.world_size,
                                     .nonce = nonce_,
                                     .epoch = epoch_,
                                     .saves_issued = issued_,
                                     .retention = plan_.retention});
}

void SimTrainer::OnMessage(daemon::SessionId session, const daemon::Action& action) {
  if (!alive_) return;
  if (frozen_) {
    while_frozen_.push_back([this, session, action] { Handle(session, action); });
  } else {
    Handle(session, action);
  }
}

void SimTrainer::Handle(daemon::SessionId session, const daemon::Action& action) {
  if (session != session_ && session != asking_) return;
  if (const auto* opened = std::get_if<daemon::AnswerOpen>(&action)) {
    OnOpened(*opened);
  } else if (const auto* moved = std::get_if<daemon::MoveSession>(&action)) {
    epoch_ = moved->epoch;
  } else if (std::holds_alternative<daemon::CloseSession>(action)) {
    OnClosed();
  } else if (const auto* loaded = std::get_if<daemon::AnswerLoad>(&action)) {
    OnLoaded(*loaded);
  } else if (const auto* release = std::get_if<daemon::Release>(&action)) {
    OnReleased(*release);
  } else if (const auto* saved = std::get_if<daemon::AnswerSave>(&action)) {
    if (state_ != State::kSaving || saved->number != issued_) return;
    state_ = State::kTraining;
    Schedule();
  }
}

void SimTrainer::OnClosed() {
  if (session_ == 0) return;
  Exit();
}

void SimTrainer::OnOpened(const daemon::AnswerOpen& answer) {
  if (answer.session != asking_) return;
  asking_ = 0;
  if (answer.failure.code == absl::StatusCode::kAborted) {
    Exit();
    return;
  }
  if (answer.failure.code != absl::StatusCode::kOk) {
    session_ = 0;
    After(random_.Between(50, 200), [this] { Open(); });
    return;
  }
  if (epoch_ != 0 && answer.epoch != epoch_) {
    checker_.Broken(absl::StrCat("rank ", rank_, " resumed epoch ", epoch_, " and is in ", answer.epoch));
  }
  session_ = answer.session;
  epoch_ = answer.epoch;
  released_.fill(issued_);  // a new page starts so
  for (const auto& [number, word] : words_) SealLater(number);
  Register();
  if (state_ == State::kOpening || state_ == State::kLoading) {
    Load();
  } else if (state_ == State::kSaving) {
    state_ = State::kTraining;  // what became of the save is in the answer
  }
  Schedule();
}

void SimTrainer::Register() {
  daemon_.Send(daemon::Registered{session_, ++generation_, absl::StrCat("layout ", layout_)});
}

void SimTrainer::Reregister() {
  if (!alive_ || session_ == 0 || frozen_) return;
  ++layout_;
  Register();
}

void SimTrainer::Load() {
  state_ = State::kLoading;
  notes_.clear();  // what was noted of this memory holds no more
  ticket_ = static_cast<uint64_t>(rank_) * 1'000'000 + host_.NewSession(*this) * 100 + ++tickets_;
  const bool again = reloaded_ && loads_ > 0;
  daemon_.Send(daemon::LoadRequested{.session = session_,
                                     .ticket = ticket_,
                                     .latest = !again || plan_.reload_latest,
                                     .step = again ? plan_.reload_step : 0});
}

void SimTrainer::OnLoaded(const daemon::AnswerLoad& answer) {
  if (state_ != State::kLoading || answer.ticket != ticket_) return;
  const bool latest = !(reloaded_ && loads_ > 0) || plan_.reload_latest;
  checker_.OnLoaded(answer, latest);
  const bool never_was =
      answer.failure.code == absl::StatusCode::kNotFound && answer.failure.reason != "UNKNOWN_CHECKPOINT";
  if (answer.failure.code != absl::StatusCode::kOk && !never_was) {
    Exit();
    return;
  }
  if (answer.failure.code == absl::StatusCode::kOk) {
    step_ = answer.found ? answer.step : 0;
    content_.fill(step_);
  }
  ++loads_;
  state_ = State::kTraining;
  host_.OnAdvanced();
  Schedule();
}

void SimTrainer::Wake() { Schedule(); }

void SimTrainer::Schedule() {
  if (!alive_ || scheduled_ || state_ != State::kTraining) return;
  scheduled_ = true;
  After(random_.Between(3, 12), [this] {
    scheduled_ = false;
    TakeStep();
  });
}

void SimTrainer::TakeStep() {
  if (state_ != State::kTraining || host_.stopping() || updating_) return;
  const auto behind = std::find(content_.begin(), content_.end(), step_);
  if (behind == content_.end()) {
    EndStep();
    return;
  }
  if (behind == content_.begin() && !host_.MayTrainOn(*this)) return;
  const size_t group = behind - content_.begin();
  if (released_[group] < issued_) {
    if (gated_since_ < 0) {
      gated_since_ = clock_.now();
      After(kWatchdogMs, [this] { Watchdog(); });
    }
    return;
  }
  gated_since_ = -1;
  updating_ = true;
  BeginUpdate(group);
  if (group + 1 == kGroups && random_.Chance(0.5)) Note(step_ + 1);
  After(random_.Between(1, 4), [this, group] {
    EndUpdate(group, step_ + 1);
    updating_ = false;
    Schedule();
  });
}

void SimTrainer::Watchdog() {
  if (gated_since_ >= 0 && clock_.now() - gated_since_ >= kWatchdogMs) {
    gated_since_ = -1;
    Poison();
  }
}

void SimTrainer::EndStep() {
  Note(++step_);
  host_.OnAdvanced();
  if (step_ % plan_.save_every == 0) {
    Save();
  } else if (!reloaded_ && plan_.reload_at >= 0 && step_ >= plan_.reload_at && session_ != 0) {
    reloaded_ = true;
    Load();
  } else {
    Schedule();
  }
}

void SimTrainer::Save() {
  state_ = State::kSaving;
  words_[++issued_] = Word::kOpen;
  saving_step_ = step_;
  if (words_.size() > 8) words_.erase(words_.begin());
  if (session_ == 0) {  // known to be detached: the save fails here and now
    words_[issued_] = Word::kPoisoned;
    released_.fill(issued_);
    state_ = State::kTraining;
    Schedule();
    return;
  }
  SendSave(issued_, step_);
}

void SimTrainer::SendSave(uint64_t number, int64_t step) {
  if (state_ != State::kSaving || number != issued_) return;
  if (session_ != 0) {
    daemon_.Send(daemon::SaveRequested{.session = session_,
                                       .number = number,
                                       .step = step,
                                       .generation = generation_,
                                       .policy = plan_.policy});
  }
  After(kRetryMs, [this, number, step] { SendSave(number, step); });
}

void SimTrainer::OnReleased(const daemon::Release& release) {
  for (int group = 0; group < kGroups; ++group) {
    if (!release.all_groups && release.group != static_cast<uint32_t>(group)) continue;
    if (release.number < released_[group]) {
      checker_.Broken(absl::StrCat("rank ", rank_, " is released for save ", release.number, " after ",
                                   released_[group]));
    }
    released_[group] = std::max(released_[group], release.number);
  }
  for (const auto& [number, word] : words_) SealLater(number);
  Wake();
}

void SimTrainer::SealLater(uint64_t number) {
  const auto open = [this](uint64_t n) {
    const auto word = words_.find(n);
    return word != words_.end() && word->second == Word::kOpen && session_ != 0 &&
           *std::min_element(released_.begin(), released_.end()) >= n;
  };
  if (!open(number)) return;
  After(random_.Between(0, 15), [this, number, open] {
    if (!open(number)) return;
    words_[number] = Word::kSealed;
    daemon_.Send(daemon::VerdictSeen{session_, number, true});
  });
}

bool SimTrainer::Sealed(uint64_t number) const {
  const auto word = words_.find(number);
  return word != words_.end() && word->second == Word::kSealed;
}

bool SimTrainer::GatesOpen() const {
  return *std::min_element(released_.begin(), released_.end()) >= issued_;
}

}  // namespace keepstep::sim
