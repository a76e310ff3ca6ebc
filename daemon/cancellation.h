// A Cancellation ends work early, with a reason, wherever it waits. One side calls Cancel; the others look,
// or hook in.
//
// Thread-safe. The first Cancel counts, later ones change nothing.

#ifndef KEEPSTEP_DAEMON_CANCELLATION_H_
#define KEEPSTEP_DAEMON_CANCELLATION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>

#include "absl/status/status.h"

namespace keepstep::daemon {

class Cancellation {
 public:
  Cancellation() = default;
  Cancellation(const Cancellation&) = delete;
  Cancellation& operator=(const Cancellation&) = delete;

  // `why` is an error. Runs the hooks on this thread before it returns.
  void Cancel(absl::Status why);

  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }
  absl::Status status() const;  // OK until cancelled

  // Calls `wake` once, when cancelled (at once if that was earlier), unless it was destroyed first. Its
  // constructor and destructor wait for a running `wake`: hold no lock around them that `wake` takes.
  // `wake` must not block.
  class Hook {
   public:
    Hook(Cancellation& on, std::function<void()> wake);
    ~Hook();
    Hook(const Hook&) = delete;
    Hook& operator=(const Hook&) = delete;

   private:
    Cancellation& on_;
    uint64_t id_ = 0;
  };

 private:
  std::atomic<bool> cancelled_{false};
  mutable std::mutex mutex_;  // held while hooks run
  absl::Status status_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, std::function<void()>> hooks_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_CANCELLATION_H_
