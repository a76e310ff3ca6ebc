#include "daemon/ticker.h"

#include <pthread.h>
#include <time.h>

#include <chrono>
#include <cstdint>

#include "daemon/logic/job_machine.h"
#include "proto/session_page.h"

namespace keepstep::daemon {
namespace {

constexpr int kTicksPerBeat = proto::kHeartbeatPeriodMs / kTickMs;

uint64_t MonotonicNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

Ticker::Ticker(SessionRegistry* sessions, JobRegistry* jobs, AttemptWriter* attempts, Executor* calls,
               PoolKeeper* keeper, KeptWorlds* kept, Pulse* pulse)
    : sessions_(sessions),
      jobs_(jobs),
      attempts_(attempts),
      calls_(calls),
      keeper_(keeper),
      kept_(kept),
      pulse_(pulse),
      thread_([this] { Run(); }) {}

Ticker::~Ticker() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Ticker::Run() {
  std::unique_lock lock(mutex_);
  for (uint64_t tick = 0; !stopping_; ++tick) {
    lock.unlock();
    pulse_->Beat();
    for (const auto& job : jobs_->All()) job->Tick();
    if (tick % kTicksPerBeat == 0) {
      for (const auto& session : sessions_->All()) session->pages().Beat(MonotonicNs());
    }
    if (tick % kTicksPerBeat == 0) LookAfter();
    lock.lock();
    wake_.wait_for(lock, std::chrono::milliseconds(kTickMs), [this] { return stopping_; });
  }
}

// Tasks may run after the ticker has gone.
void Ticker::LookAfter() {
  calls_->TrySubmit([attempts = attempts_, kept = kept_] {
    attempts->AbortIdle();
    kept->Expire(KeptWorlds::Clock::now());
  });
  if (keeping_->exchange(true)) return;
  const auto look = [keeper = keeper_, keeping = keeping_] {
    keeper->Look(PoolKeeper::Clock::now());
    *keeping = false;
  };
  if (!calls_->TrySubmit(look)) *keeping_ = false;
}

}  // namespace keepstep::daemon
