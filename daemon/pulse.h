// When something that must keep moving last moved. Thread-safe.

#ifndef KEEPSTEP_DAEMON_PULSE_H_
#define KEEPSTEP_DAEMON_PULSE_H_

#include <atomic>
#include <chrono>

namespace keepstep::daemon {

class Pulse {
 public:
  using Clock = std::chrono::steady_clock;

  void Beat() { last_ = Clock::now().time_since_epoch(); }
  Clock::duration Age() const { return Clock::now().time_since_epoch() - last_.load(); }

 private:
  std::atomic<Clock::duration> last_{Clock::now().time_since_epoch()};
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_PULSE_H_
