// One trainer process: it updates its groups step by step, saves and loads through the daemon, and keeps the
// client's rules: no update before the gate is open, no seal before the copy is released, POISONED before it
// opens a gate on its own.
//
// Its content is Content(step, rank, group), so that a copy at the wrong moment is seen at once. An update takes a while,
// in which the content is none. It leaves a flight record (proto/flight_record.h): what it was when it died is what the
// daemon reads, but for updates that were queued on its GPU, which may still run then.

#ifndef KEEPSTEP_TESTS_SIM_SIM_TRAINER_H_
#define KEEPSTEP_TESTS_SIM_SIM_TRAINER_H_

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>

#include "daemon/logic/events.h"
#include "proto/flight_reader.h"
#include "tests/sim/checker.h"
#include "tests/sim/clock.h"
#include "tests/sim/random.h"
#include "tests/sim/sim_daemon.h"

namespace keepstep::sim {

class SimTrainer;

// What a trainer needs of the world.
class TrainerHost {
 public:
  virtual ~TrainerHost() = default;
  virtual daemon::SessionId NewSession(SimTrainer& trainer) = 0;
  // Whether every rank's current process has come as far: training is lockstep.
  virtual bool MayTrainOn(const SimTrainer& trainer) = 0;
  virtual void OnAdvanced() = 0;                 // somebody may be waiting for it
  virtual void OnExit(SimTrainer& trainer) = 0;  // its launcher's turn
  virtual bool stopping() const = 0;             // no further updates
};

struct TrainerPlan {  // the same on every rank
  int32_t world_size = 1;
  int64_t save_every = 3;
  int64_t reload_at = -1;  // step after which every rank loads again, once
  bool reload_latest = true;
  int64_t reload_step = 0;
  daemon::BusyPolicy policy = daemon::BusyPolicy::kWait;
  daemon::RetentionPolicy retention;
};

class SimTrainer {
 public:
  SimTrainer(int32_t rank, const TrainerPlan& plan, SimDaemon& daemon, TrainerHost& host, Checker& checker,
             Clock& clock, Random& random);

  // The launcher and fate.
  void Start() { Open(); }
  void Die();  // without a goodbye
  void Freeze(int64_t for_ms);
  void LoseStream();
  void Reregister();
  void OnDaemonDied();

  // The daemon's side.
  void OnMessage(daemon::SessionId session, const daemon::Action& action);
  std::string Copy(int group) const { return Content(content_[group], rank_, group); }
  bool Sealed(uint64_t number) const;
  proto::FlightRecord Record() const;

  void Wake();  // something it may wait for has happened
  int32_t rank() const { return rank_; }
  bool alive() const { return alive_; }
  bool frozen() const { return frozen_; }
  bool training() const { return state_ == State::kTraining || state_ == State::kSaving; }
  std::pair<int64_t, int64_t> progress() const { return {loads_, step_}; }
  uint64_t issued() const { return issued_; }
  bool GatesOpen() const;
  bool connected() const { return alive_ && session_ != 0; }

 private:
  enum class State : uint8_t { kOpening, kLoading, kTraining, kSaving };
  enum class Word : uint8_t { kOpen, kSealed, kPoisoned };

  void Open();
  void Exit();
  template <class What>
  void After(int64_t delay_ms, What what) {  // dropped if it is dead, late if it is frozen
    clock_.After(delay_ms, [this, what = std::move(what)] {
      if (!alive_) return;
      if (frozen_) {
        while_frozen_.push_back(what);
      } else {
        what();
      }
    });
  }
  void Handle(daemon::SessionId session, const daemon::Action& action);
  void OnOpened(const daemon::AnswerOpen& answer);
  void OnLoaded(const daemon::AnswerLoad& answer);
  void OnClosed();
  void Load();
  void Schedule();
  void TakeStep();
  void BeginUpdate(size_t group);
  void EndUpdate(size_t group, int64_t step);
  void Note(int64_t step);
  void Linger();
  void EndStep();
  void Save();
  void SendSave(uint64_t number, int64_t step);
  void OnReleased(const daemon::Release& release);
  void SealLater(uint64_t number);
  void Watchdog();
  void Poison();
  void Register();

  const int32_t rank_;
  const TrainerPlan plan_;
  SimDaemon& daemon_;
  TrainerHost& host_;
  Checker& checker_;
  Clock& clock_;
  Random& random_;

  daemon::Nonce nonce_{};
  State state_ = State::kOpening;
  bool alive_ = true, frozen_ = false, scheduled_ = false, opening_ = false;
  std::deque<std::function<void()>> while_frozen_;
  daemon::SessionId session_ = 0, asking_ = 0;  // asking_: opened, not answered
  int64_t epoch_ = 0;
  uint64_t life_of_daemon_ = 0;
  uint64_t generation_ = 0, tickets_ = 0, ticket_ = 0;
  int layout_ = 0;

  int64_t step_ = 0, loads_ = 0;
  bool reloaded_ = false;
  static constexpr int64_t kTorn = -1;
  std::array<int64_t, kGroups> content_{};  // updates that each group has had; kTorn: one has begun
  bool updating_ = false;
  struct NoteOfStep {
    int64_t step = 0;
    uint64_t generation = 0;
    std::array<uint32_t, kGroups> expected{};
  };
  std::array<uint32_t, kGroups> begun_{}, done_{};  // the record's words
  std::deque<NoteOfStep> notes_;                    // its slots, the newer first
  uint64_t issued_ = 0;
  int64_t saving_step_ = 0;
  std::array<uint64_t, kGroups> released_{};  // the page
  std::map<uint64_t, Word> words_;
  int64_t gated_since_ = -1;
};

}  // namespace keepstep::sim

#endif  // KEEPSTEP_TESTS_SIM_SIM_TRAINER_H_
