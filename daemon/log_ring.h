// The newest lines of the daemon's own log, kept in memory for `keepstep logs` and bundles.
//
// Bounded in lines and in bytes; a long line is cut. Thread-safe. Listeners only hear that there is something
// new: they run on whatever thread logs, must not block, and must not log.

#ifndef KEEPSTEP_DAEMON_LOG_RING_H_
#define KEEPSTEP_DAEMON_LOG_RING_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/log.h"

namespace keepstep::daemon {

inline constexpr size_t kLogLinesKept = 4096;
inline constexpr size_t kLogBytesKept = 1 << 20;
inline constexpr size_t kLogLineBytes = 4096;
inline constexpr size_t kLogListeners = 16;

struct LogLine {
  uint64_t number = 0;  // from 1, without gaps
  int64_t unix_ms = 0;
  Log::Level level = Log::Level::kInfo;
  std::string job;   // value of its field "job"; empty: the daemon's own affair
  std::string text;  // message and fields, one line
};

class LogRing {
 public:
  using Listener = std::function<void()>;

  void Append(Log::Level level, int64_t unix_ms, std::string job, std::string text);

  // Lines with a number above `number`, oldest first, at most `most` of the newest.
  std::vector<LogLine> After(uint64_t number, size_t most) const;
  uint64_t newest() const;

  // 0: there are kLogListeners already, or nobody may listen any more. After Unlisten and after Silence,
  // which ends all listening, no listener runs.
  uint64_t Listen(Listener listener);
  void Unlisten(uint64_t ticket);
  void Silence();

 private:
  mutable std::mutex mutex_;
  std::deque<LogLine> lines_;
  size_t bytes_ = 0;
  uint64_t newest_ = 0;

  std::mutex listeners_mutex_;  // held while they run
  uint64_t next_ticket_ = 1;
  bool silent_ = false;
  std::map<uint64_t, Listener> listeners_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOG_RING_H_
