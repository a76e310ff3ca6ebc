#include "daemon/log_ring.h"

#include <utility>

namespace keepstep::daemon {

void LogRing::Append(Log::Level level, int64_t unix_ms, std::string job, std::string text) {
  constexpr char kCut[] = " …";
  if (text.size() > kLogLineBytes) {
    size_t end = kLogLineBytes - sizeof(kCut);
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80)
      --end;  // not inside a character
    text.resize(end);
    text += kCut;
  }
  {
    std::lock_guard lock(mutex_);
    bytes_ += text.size() + job.size();
    lines_.push_back({++newest_, unix_ms, level, std::move(job), std::move(text)});
    while (lines_.size() > kLogLinesKept || bytes_ > kLogBytesKept) {
      bytes_ -= lines_.front().text.size() + lines_.front().job.size();
      lines_.pop_front();
    }
  }
  std::lock_guard lock(listeners_mutex_);
  for (const auto& [ticket, listener] : listeners_) listener();
}

std::vector<LogLine> LogRing::After(uint64_t number, size_t most) const {
  std::lock_guard lock(mutex_);
  std::vector<LogLine> found;
  if (lines_.empty() || number >= newest_) return found;
  const uint64_t oldest = lines_.front().number;
  size_t first = number < oldest ? 0 : number - oldest + 1;
  if (lines_.size() - first > most) first = lines_.size() - most;
  found.assign(lines_.begin() + static_cast<int64_t>(first), lines_.end());
  return found;
}

uint64_t LogRing::newest() const {
  std::lock_guard lock(mutex_);
  return newest_;
}

uint64_t LogRing::Listen(Listener listener) {
  std::lock_guard lock(listeners_mutex_);
  if (silent_ || listeners_.size() >= kLogListeners) return 0;
  listeners_[next_ticket_] = std::move(listener);
  return next_ticket_++;
}

void LogRing::Unlisten(uint64_t ticket) {
  std::lock_guard lock(listeners_mutex_);
  listeners_.erase(ticket);
}

void LogRing::Silence() {
  std::lock_guard lock(listeners_mutex_);
  silent_ = true;
  listeners_.clear();
}

}  // namespace keepstep::daemon
