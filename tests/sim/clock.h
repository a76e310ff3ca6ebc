// Virtual time: events in the order of their times, then of their making.

#ifndef KEEPSTEP_TESTS_SIM_CLOCK_H_
#define KEEPSTEP_TESTS_SIM_CLOCK_H_

#include <cstdint>
#include <memory>
#include <queue>
#include <utility>
#include <vector>

namespace keepstep::sim {

class Clock {
 public:
  int64_t now() const { return now_; }
  uint64_t events() const { return next_id_; }

  // `What` is called once, or destroyed with the clock.
  template <class What>
  void After(int64_t delay_ms, What what) {
    size_t slot = tasks_.size();
    if (free_.empty()) {
      tasks_.emplace_back();
    } else {
      slot = free_.back();
      free_.pop_back();
    }
    tasks_[slot] = std::make_unique<TaskOf<What>>(std::move(what));
    queue_.push({now_ + delay_ms, next_id_++, slot});
  }

  void RunUntil(int64_t time_ms) {
    while (!queue_.empty() && queue_.top().time <= time_ms) {
      const Entry next = queue_.top();
      queue_.pop();
      now_ = next.time;
      const std::unique_ptr<Task> task = std::move(tasks_[next.slot]);
      free_.push_back(next.slot);
      task->Run();
    }
    now_ = time_ms;
  }

 private:
  struct Task {
    virtual ~Task() = default;
    virtual void Run() = 0;
  };
  template <class What>
  struct TaskOf final : Task {
    explicit TaskOf(What what_in) : what(std::move(what_in)) {}
    void Run() override { what(); }
    What what;
  };
  struct Entry {  // small: a heap moves its entries often
    int64_t time;
    uint64_t id;
    size_t slot;
    bool operator<(const Entry& other) const { return time != other.time ? other.time < time : other.id < id; }
  };

  int64_t now_ = 0;
  uint64_t next_id_ = 0;
  std::priority_queue<Entry> queue_;
  std::vector<std::unique_ptr<Task>> tasks_;  // by slot
  std::vector<size_t> free_;
};

}  // namespace keepstep::sim

#endif  // KEEPSTEP_TESTS_SIM_CLOCK_H_
