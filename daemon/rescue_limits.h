// Whether, how long and how much GPU memory is kept for dead trainers, over all jobs (docs/gpu.md, "Crash flush").

#ifndef KEEPSTEP_DAEMON_RESCUE_LIMITS_H_
#define KEEPSTEP_DAEMON_RESCUE_LIMITS_H_

#include <atomic>
#include <chrono>
#include <cstdint>

namespace keepstep::daemon {

struct RescueSpec {
  bool enabled = true;
  int64_t hold_ms = 60'000;                // from a process's death until its memory is let go, whatever is under way
  int64_t bytes = int64_t{1} << 40;        // of GPU memory, at once
};

// Thread-safe.
class RescueLimits {
 public:
  explicit RescueLimits(const RescueSpec& spec) { Set(spec); }

  // For those who die from now on.
  void Set(const RescueSpec& spec) {
    enabled_ = spec.enabled;
    hold_ms_ = spec.hold_ms;
    limit_bytes_ = spec.bytes;
  }
  bool enabled() const { return enabled_; }
  std::chrono::milliseconds hold() const { return std::chrono::milliseconds(hold_ms_); }
  int64_t limit_bytes() const { return limit_bytes_; }

  // False, and nothing taken, beyond the limit.
  bool Take(int64_t bytes) {
    if (kept_bytes_.fetch_add(bytes) + bytes > limit_bytes_) {
      kept_bytes_.fetch_sub(bytes);
      return false;
    }
    ++kept_;
    return true;
  }
  void GiveBack(int64_t bytes) {
    kept_bytes_.fetch_sub(bytes);
    --kept_;
  }
  int64_t kept_bytes() const { return kept_bytes_; }
  int kept() const { return kept_; }  // processes

 private:
  std::atomic<bool> enabled_{true};
  std::atomic<int64_t> hold_ms_{0}, limit_bytes_{0}, kept_bytes_{0};
  std::atomic<int> kept_{0};
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_RESCUE_LIMITS_H_
