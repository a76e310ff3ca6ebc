#include "tests/sim/sim_world.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace keepstep::sim {

namespace {

constexpr int64_t kTroubleMs = 1'250;
constexpr int64_t kTrainOnMs = 1'000;
constexpr int64_t kSettleMs = 6'000;  // longer than any limit of the run
constexpr int64_t kRecoverMs = 2'000;

}  // namespace

RunResult RunSeed(uint64_t seed, Mutation mutation, bool print_trace) {
  return SimWorld(seed, mutation, print_trace).Run();
}

SimWorld::SimWorld(uint64_t seed, Mutation mutation, bool print_trace)
    : random_(seed),
      trace_(print_trace),
      store_(random_),
      checker_(store_),
      daemon_({random_, clock_, store_, checker_, static_cast<TrainerSide&>(*this), trace_}, mutation) {
  plan_.world_size = static_cast<int32_t>(random_.Between(1, 4));
  plan_.save_every = random_.Between(2, 5);
  plan_.policy = static_cast<daemon::BusyPolicy>(random_.Below(3));
  if (random_.Chance(0.6)) {
    plan_.retention.keep_last = random_.Between(1, 3);
    if (random_.Chance(0.3)) plan_.retention.keep_every = plan_.save_every * random_.Between(2, 4);
  }
  if (random_.Chance(0.3)) {
    plan_.reload_at = random_.Between(6, 20);
    plan_.reload_latest = random_.Chance(0.6);
    plan_.reload_step = plan_.save_every * random_.Between(1, 3);
  }
  daemon_.set_rescues(random_.Chance(0.7));
  strike_every_ms_ = random_.Between(80, 700);
  current_.resize(plan_.world_size);
}

RunResult SimWorld::Run() {
  daemon_.Start();
  for (int32_t rank = 0; rank < plan_.world_size; ++rank) Launch(rank, random_.Between(0, 30));
  clock_.After(random_.Between(50, 400), [this] { Strike(); });
  clock_.RunUntil(kTroubleMs);
  calm_ = true;
  store_.set_faults({});
  daemon_.set_faults({});
  daemon_.set_slow_copies(false);
  clock_.RunUntil(kTroubleMs + kTrainOnMs);
  stopping_ = true;
  clock_.RunUntil(kTroubleMs + kTrainOnMs + kSettleMs);
  CheckSettled();
  KillDaemon(false);
  clock_.RunUntil(clock_.now() + kRecoverMs);
  if (daemon_.Snapshot().recovering) checker_.Broken("the daemon does not recover on a healthy disk");
  checker_.OnEnd();
  daemon_.Kill();
  store_.PowerLoss();
  checker_.OnPowerLoss();

  result_.findings = checker_.findings();
  result_.trace_hash = trace_.hash();
  result_.commits = checker_.commits();
  result_.rescues = checker_.rescues();
  result_.rescues_begun = checker_.rescues_begun();
  result_.deletions = checker_.deletions();
  result_.verdicts = daemon_.decided();
  result_.events = clock_.events();
  return result_;
}

void SimWorld::CheckSettled() {
  if (!daemon_.up()) {
    checker_.Broken("the daemon was not restarted");
    return;
  }
  const daemon::JobSnapshot snapshot = daemon_.Snapshot();
  for (const daemon::SaveSnapshot& save : snapshot.saves) {
    checker_.Broken(absl::StrCat("save ", save.number, " is still in stage ", daemon::StageName(save.stage)));
  }
  if (daemon_.kept() > 0) checker_.Broken("memory of dead trainers is still kept");
  for (SimTrainer* trainer : current_) {
    if (!trainer->alive() || trainer->frozen()) continue;
    if (!trainer->GatesOpen())
      checker_.Broken(absl::StrCat("the gates of rank ", trainer->rank(), " stay shut"));
    if (!trainer->connected()) checker_.Broken(absl::StrCat("rank ", trainer->rank(), " cannot join"));
  }
}

// ---- what the daemon sees of trainers
// ------------------------------------------------------------------------------

bool SimWorld::CopyGroup(daemon::SessionId session, int32_t rank, int group, bool kept, std::string* content) {
  SimTrainer* trainer = sessions_.at(session);
  if (!trainer->alive() && !kept) return false;
  *content = trainer->Copy(group);
  return true;
}

proto::FlightRecord SimWorld::Record(daemon::SessionId session) { return sessions_.at(session)->Record(); }

void SimWorld::Deliver(daemon::SessionId session, const daemon::Action& action) {
  sessions_.at(session)->OnMessage(session, action);
}

bool SimWorld::Sealed(daemon::SessionId session, uint64_t number) {
  return sessions_.at(session)->Sealed(number);
}

// ---- what trainers see of each other
// -------------------------------------------------------------------------------

daemon::SessionId SimWorld::NewSession(SimTrainer& trainer) {
  sessions_[++last_session_] = &trainer;
  return last_session_;
}

bool SimWorld::MayTrainOn(const SimTrainer& trainer) {
  return std::all_of(current_.begin(), current_.end(), [&trainer](const SimTrainer* other) {
    return other == &trainer ||
           (other->alive() && other->training() && other->progress() >= trainer.progress());
  });
}

void SimWorld::OnAdvanced() {
  for (SimTrainer* trainer : current_) {
    if (trainer != nullptr) trainer->Wake();
  }
}

void SimWorld::Launch(int32_t rank, int64_t delay_ms) {
  clock_.After(delay_ms, [this, rank] {
    SimTrainer* old = current_[rank];
    if (old != nullptr && old->alive() && !old->frozen()) return;  // somebody was faster
    trainers_.push_back(std::make_unique<SimTrainer>(rank, plan_, daemon_, static_cast<TrainerHost&>(*this),
                                                     checker_, clock_, random_));
    current_[rank] = trainers_.back().get();
    trace_.AddLine(clock_.now(), absl::StrCat("rank ", rank, " starts"));
    current_[rank]->Start();
  });
}

void SimWorld::OnExit(SimTrainer& trainer) {
  trace_.AddLine(clock_.now(), absl::StrCat("rank ", trainer.rank(), " ends"));
  ++result_.trainer_deaths;
  if (current_[trainer.rank()] == &trainer) Launch(trainer.rank(), random_.Between(10, 200));
}

// ---- fate
// ----------------------------------------------------------------------------------------------------------

void SimWorld::Strike() {
  if (calm_) return;
  SimTrainer* victim = current_[random_.Below(plan_.world_size)];
  switch (random_.Below(14)) {
    case 0:
    case 1: KillDaemon(false); break;
    case 2: KillDaemon(true); break;
    case 3:
    case 4:
      if (victim != nullptr && victim->alive()) {
        victim->Die();
        if (random_.Chance(0.5)) KillAll();
      }
      break;
    case 13: KillAll(); break;
    case 5:
      if (victim != nullptr) {
        victim->Freeze(random_.Between(50, 3'000));
        if (random_.Chance(0.5))
          Launch(victim->rank(), random_.Between(20, 400));  // given up by its launcher
      }
      break;
    case 6:
      if (victim != nullptr) victim->LoseStream();
      break;
    case 7:
    case 8: Storm(); break;
    case 10:
      if (const int64_t step = checker_.SomeReportedStep(random_.Next()); step >= 0 && daemon_.up())
        daemon_.Pin(step, absl::StrCat("pin-", random_.Below(3)));
      break;
    case 11:
      if (const std::string attempt = checker_.SomeCommit(random_.Next()); !attempt.empty() && daemon_.up())
        daemon_.Read(attempt);
      break;
    case 12:
      daemon_.ChangeLimits();
      break;
    case 9:
      if (random_.Chance(0.5) && victim != nullptr)
        victim->Reregister();
      else
        daemon_.Send(daemon::CancelRequested{.ticket = 1, .step = plan_.save_every * random_.Between(1, 6)});
      break;
  }
  clock_.After(random_.Between(1, 2 * strike_every_ms_), [this] { Strike(); });
}

void SimWorld::KillDaemon(bool power) {
  if (!daemon_.up()) return;
  ++result_.daemon_deaths;
  daemon_.Kill();
  if (power) {
    ++result_.power_losses;
    trace_.AddLine(clock_.now(), "power loss");
    store_.PowerLoss();
    checker_.OnPowerLoss();
    for (SimTrainer* trainer : current_) {
      if (trainer != nullptr && trainer->alive()) trainer->Die();
    }
    for (auto& trainer : trainers_) {
      if (trainer->alive()) trainer->Die();  // frozen ones that were given up
    }
  }
  for (auto& trainer : trainers_) {
    if (trainer->alive()) trainer->OnDaemonDied();
  }
  RestartDaemon(random_.Between(5, 120), calm_ ? 0 : static_cast<int>(random_.Below(3)));
}

// At once, or one after the other.
void SimWorld::KillAll() {
  const int64_t within_ms = random_.Chance(0.5) ? 0 : random_.Between(1, 40);
  for (SimTrainer* trainer : current_) {
    if (trainer == nullptr) continue;
    clock_.After(random_.Between(0, within_ms), [trainer] {
      if (trainer->alive()) trainer->Die();
    });
  }
}

// Some starts die again while they recover.
void SimWorld::RestartDaemon(int64_t delay_ms, int deaths_left) {
  clock_.After(delay_ms, [this, deaths_left] {
    if (daemon_.up()) return;
    daemon_.Start();
    if (deaths_left == 0) return;
    clock_.After(random_.Between(1, 40), [this, life = daemon_.life(), deaths_left] {
      if (!daemon_.up() || daemon_.life() != life || calm_) return;
      ++result_.daemon_deaths;
      daemon_.Kill();
      for (auto& trainer : trainers_) {
        if (trainer->alive()) trainer->OnDaemonDied();
      }
      RestartDaemon(random_.Between(5, 40), deaths_left - 1);
    });
  });
}

// A while in which the disk fails: a little of everything, or much of one thing.
void SimWorld::Storm() {
  FaultRates rates{.error = 0.03, .no_space = 0.02, .lost_reply = 0.03, .flush = 0.03, .sync = 0.02};
  switch (random_.Below(5)) {
    case 0: rates = {.error = 0.5}; break;
    case 1: rates = {.no_space = 0.5}; break;
    case 2: rates = {.lost_reply = 0.6}; break;
    case 3: rates = {.flush = 0.4, .sync = 0.3}; break;
    default: break;
  }
  store_.set_faults(rates);
  daemon_.set_faults({.error = 0.05});
  daemon_.set_slow_copies(random_.Chance(0.5));
  clock_.After(random_.Between(30, 600), [this] {
    store_.set_faults({});
    daemon_.set_faults({});
    daemon_.set_slow_copies(false);
  });
}

}  // namespace keepstep::sim
