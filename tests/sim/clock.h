// Virtual time: events in the order of their times, then of their making.

#ifndef KEEPSTEP_TESTS_SIM_CLOCK_H_
#define KEEPSTEP_TESTS_SIM_CLOCK_H_

#include <cstdint>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

namespace keepstep::sim {

class Clock {
 public:
  int64_t now() const { return now_; }
  uint64_t events() const { return next_id_; }

  void After(int64_t delay_ms, std::function<void()> what) {
    queue_.push(Entry{now_ + delay_ms, next_id_++, std::move(what)});
  }

  void RunUntil(int64_t time_ms) {
    while (!queue_.empty() && queue_.top().time <= time_ms) {
      // The queue gives only const access; the entry is removed in the next line.
      std::function<void()> what = std::move(const_cast<Entry&>(queue_.top()).what);
      now_ = queue_.top().time;
      queue_.pop();
      what();
    }
    now_ = time_ms;
  }

 private:
  struct Entry {
    int64_t time;
    uint64_t id;
    std::function<void()> what;
    bool operator<(const Entry& other) const { return std::pair(other.time, other.id) < std::pair(time, id); }
  };

  int64_t now_ = 0;
  uint64_t next_id_ = 0;
  std::priority_queue<Entry> queue_;
};

}  // namespace keepstep::sim

#endif  // KEEPSTEP_TESTS_SIM_CLOCK_H_
