// What people are shown of the configuration in effect, which a reload changes. Thread-safe.

#ifndef KEEPSTEP_DAEMON_LIVE_CONFIG_H_
#define KEEPSTEP_DAEMON_LIVE_CONFIG_H_

#include <mutex>
#include <string>
#include <utility>

#include "daemon/logic/limits.h"

namespace keepstep::daemon {

class LiveConfig {
 public:
  // `text`: every value with its source; empty: no configuration.
  void Set(const Limits& limits, std::string text) {
    std::lock_guard lock(mutex_);
    limits_ = limits;
    text_ = std::move(text);
  }
  Limits limits() const {
    std::lock_guard lock(mutex_);
    return limits_;
  }
  std::string text() const {
    std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  mutable std::mutex mutex_;
  Limits limits_;
  std::string text_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LIVE_CONFIG_H_
