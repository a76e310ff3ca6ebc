// How long pieces of one kind of work took, how many bytes they moved, how fast.
//
// Thread-safe. A null meter costs nothing: tests and benchmarks run without.

#ifndef KEEPSTEP_DAEMON_STAGE_METER_H_
#define KEEPSTEP_DAEMON_STAGE_METER_H_

#include <prometheus/counter.h>
#include <prometheus/histogram.h>

#include <chrono>
#include <cstdint>

namespace keepstep::daemon {

class StageMeter {
 public:
  using Clock = std::chrono::steady_clock;

  // All outlive it.
  StageMeter(prometheus::Histogram* seconds, prometheus::Counter* bytes, prometheus::Histogram* bandwidth)
      : seconds_(seconds), bytes_(bytes), bandwidth_(bandwidth) {}

  // One piece. Pieces without bytes, or too quick to time, have no bandwidth.
  void Did(int64_t bytes, Clock::duration took) {
    const double seconds = std::chrono::duration<double>(took).count();
    seconds_->Observe(seconds);
    if (bytes <= 0) return;
    bytes_->Increment(static_cast<double>(bytes));
    if (seconds > 0) bandwidth_->Observe(static_cast<double>(bytes) / seconds);
  }

 private:
  prometheus::Histogram* const seconds_;
  prometheus::Counter* const bytes_;
  prometheus::Histogram* const bandwidth_;
};

// Measures from its construction; Done counts the piece. A piece that failed is not counted.
class StageTimer {
 public:
  explicit StageTimer(StageMeter* meter) : meter_(meter) {
    if (meter_ != nullptr) started_ = StageMeter::Clock::now();
  }
  void Done(int64_t bytes) const {
    if (meter_ != nullptr) meter_->Did(bytes, StageMeter::Clock::now() - started_);
  }

 private:
  StageMeter* const meter_;
  StageMeter::Clock::time_point started_;
};

// The stages whose pieces the data plane moves; storage has its own (metered_store.h).
struct PlaneMeters {
  StageMeter* copy = nullptr;     // save: trainer → staging
  StageMeter* digest = nullptr;   // save
  StageMeter* verify = nullptr;   // load
  StageMeter* scatter = nullptr;  // load: staging → trainer
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_STAGE_METER_H_
