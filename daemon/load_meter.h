// Times one rank's load. Used by one thread at a time; the load's stages come one after the other.

#ifndef KEEPSTEP_DAEMON_LOAD_METER_H_
#define KEEPSTEP_DAEMON_LOAD_METER_H_

#include <chrono>

#include "absl/status/status.h"
#include "daemon/metrics.h"
#include "proto/sessions.pb.h"

namespace keepstep::daemon {

class LoadMeter {
 public:
  // `metrics` outlives it; null: counts nothing.
  explicit LoadMeter(Metrics* metrics) : metrics_(metrics) {}

  void Resolved();  // the step is known, every rank agreed
  void Planned();
  void Loaded(const v1::LoadReport& report);
  // Counts the outcome, and gives `status` back. OK without Loaded: there was nothing to load.
  absl::Status Over(absl::Status status);

 private:
  using Clock = std::chrono::steady_clock;
  double SecondsSince(Clock::time_point from) const {
    return std::chrono::duration<double>(Clock::now() - from).count();
  }
  void Count(LoadPhase phase);

  Metrics* const metrics_;
  const Clock::time_point started_ = Clock::now();
  Clock::time_point stage_ = started_;
  bool loaded_ = false;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOAD_METER_H_
