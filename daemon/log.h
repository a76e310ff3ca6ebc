// The daemon's log: one line an event on stderr, as text or as JSON objects.
//
// Thread-safe; a line is written whole. Values are escaped, so that a client's names cannot forge lines.
// Secrets never come here.

#ifndef KEEPSTEP_DAEMON_LOG_H_
#define KEEPSTEP_DAEMON_LOG_H_

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace keepstep::daemon {

class LogFile;
class LogRing;

class Log {
 public:
  enum class Level { kInfo, kWarning, kError };
  enum class Format { kText, kJson };
  using Fields = std::initializer_list<std::pair<absl::string_view, std::string>>;

  explicit Log(Format format, Level level = Level::kInfo, int fd = 2);
  ~Log();

  // What is written is kept there too. Before any thread writes; `ring` outlives the log.
  void KeepIn(LogRing* ring) { ring_ = ring; }
  // Bounds the file that descriptor 2 is. Before any thread writes.
  void Bound(std::unique_ptr<LogFile> file);
  void SetFormat(Format format) { format_ = format; }
  void SetLevel(Level level) { level_ = level; }  // what is below is dropped

  void Write(Level level, absl::string_view message, Fields fields = {});
  void Info(absl::string_view message, Fields fields = {}) { Write(Level::kInfo, message, fields); }
  void Warn(absl::string_view message, Fields fields = {}) { Write(Level::kWarning, message, fields); }

 private:
  std::atomic<Format> format_;
  std::atomic<Level> level_;
  const int fd_;
  LogRing* ring_ = nullptr;
  std::unique_ptr<LogFile> file_;
  std::mutex mutex_;
};

const char* LevelName(Log::Level level);  // "info", "warning", "error"
std::string HumanBytes(int64_t bytes);    // "49.7 GiB"

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOG_H_
