// Virtual time: events in the order of their times, then of their making. A wheel of milliseconds.

#ifndef KEEPSTEP_TESTS_SIM_CLOCK_H_
#define KEEPSTEP_TESTS_SIM_CLOCK_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "reshard/check.h"

namespace keepstep::sim {

class Clock {
 public:
  static constexpr int64_t kHorizonMs = 4096;  // no delay is longer

  Clock() : wheel_(kHorizonMs) {}
  ~Clock() {
    for (Slot& slot : wheel_) {
      while (slot.first != nullptr) delete Pop(slot);
    }
  }
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;

  int64_t now() const { return now_; }
  uint64_t events() const { return events_; }

  // `what` is called once, or destroyed with the clock.
  template <class What>
  void After(int64_t delay_ms, What what) {
    KEEPSTEP_CHECK(delay_ms >= 0 && delay_ms < kHorizonMs, "an event beyond the clock's horizon");
    Task* task = new TaskOf<What>(std::move(what));
    Slot& slot = wheel_[(now_ + delay_ms) % kHorizonMs];
    (slot.first == nullptr ? slot.first : slot.last->next) = task;
    slot.last = task;
    ++events_;
  }

  void RunUntil(int64_t time_ms) {
    for (;; ++now_) {
      Slot& slot = wheel_[now_ % kHorizonMs];
      while (slot.first != nullptr) std::unique_ptr<Task>(Pop(slot))->Run();  // may add to the slot
      if (now_ >= time_ms) return;
    }
  }

 private:
  struct Task {
    virtual ~Task() = default;
    virtual void Run() = 0;
    Task* next = nullptr;  // at the same time
  };
  template <class What>
  struct TaskOf final : Task {
    explicit TaskOf(What what_in) : what(std::move(what_in)) {}
    void Run() override { what(); }
    What what;
  };
  struct Slot {  // the events of one millisecond
    Task *first = nullptr, *last = nullptr;
  };

  static Task* Pop(Slot& slot) {
    Task* task = slot.first;
    slot.first = task->next;
    return task;
  }

  int64_t now_ = 0;
  uint64_t events_ = 0;
  std::vector<Slot> wheel_;  // by time, modulo the horizon
};

}  // namespace keepstep::sim

#endif  // KEEPSTEP_TESTS_SIM_CLOCK_H_
