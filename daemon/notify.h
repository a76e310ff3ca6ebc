// Tells the service manager how the daemon is doing: systemd's notification protocol, one datagram a message,
// without its library.
//
// Nothing happens without $NOTIFY_SOCKET, and a message that cannot be sent is dropped: the manager's own
// time-outs are there for that.

#ifndef KEEPSTEP_DAEMON_NOTIFY_H_
#define KEEPSTEP_DAEMON_NOTIFY_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace keepstep::daemon {

class Notifier {
 public:
  // $NOTIFY_SOCKET, and $WATCHDOG_USEC unless $WATCHDOG_PID names another process.
  static Notifier FromEnvironment();
  Notifier(std::string socket, std::chrono::microseconds watchdog)
      : socket_(std::move(socket)), watchdog_(watchdog) {}

  void Ready(absl::string_view status) const;
  void Reloading() const;  // then Ready again
  void Stopping(absl::string_view status) const;
  // Newline-separated assignments. Does not block.
  void Send(absl::string_view message) const;

  // Within this time the manager wants to hear WATCHDOG=1; 0: never.
  std::chrono::microseconds watchdog() const { return watchdog_; }

 private:
  std::string socket_;  // "/path", "@abstract", or empty
  std::chrono::microseconds watchdog_{0};
};

// Feeds the manager's watchdog while `alive` says OK; when it does not, the manager is told why once, and
// left to kill and restart the daemon. Does nothing without a watchdog.
class WatchdogFeeder {
 public:
  // Both outlive it. `alive` must not block; it is called on the feeder's thread.
  WatchdogFeeder(const Notifier* notifier, std::function<absl::Status()> alive);
  ~WatchdogFeeder();
  WatchdogFeeder(const WatchdogFeeder&) = delete;
  WatchdogFeeder& operator=(const WatchdogFeeder&) = delete;

 private:
  void Run();

  const Notifier& notifier_;
  const std::function<absl::Status()> alive_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_NOTIFY_H_
