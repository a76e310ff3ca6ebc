// Threads for work that may block: storage operations, planning, calls that read checkpoints. And strands
// over them.
//
// Thread-safe.

#ifndef KEEPSTEP_DAEMON_EXECUTOR_H_
#define KEEPSTEP_DAEMON_EXECUTOR_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace keepstep::daemon {

class Executor {
 public:
  // `max_queued`: how many tasks TrySubmit lets wait. `name` (at most 15 bytes) is what `top -H` shows.
  explicit Executor(int threads, size_t max_queued = 4096, const char* name = "ks-work");
  ~Executor();  // runs what was submitted, then joins
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // For work whose amount its producer bounds. Never blocks.
  void Submit(std::function<void()> task);
  // For work that callers from outside cause: false when too much waits already.
  bool TrySubmit(std::function<void()> task);

 private:
  void Run();

  const size_t max_queued_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

// Runs tasks one at a time, in the order in which they came, on an executor's threads. Tasks must not block
// for long. The executor outlives it; tasks that wait when it is destroyed still run.
class Strand {
 public:
  explicit Strand(Executor* executor) : state_(std::make_shared<State>()), executor_(executor) {}

  void Post(std::function<void()> task);
  // As Post, but runs the task here and now when nothing else of the strand runs or waits: for a task that
  // takes microseconds and whose caller would wait for a thread to wake up.
  void Dispatch(std::function<void()> task);

 private:
  struct State {
    std::mutex mutex;
    std::deque<std::function<void()>> tasks;
    bool running = false;
  };
  static void Run(const std::shared_ptr<State>& state);

  std::shared_ptr<State> state_;
  Executor* executor_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_EXECUTOR_H_
