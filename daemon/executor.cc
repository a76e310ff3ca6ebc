#include "daemon/executor.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

namespace keepstep::daemon {

Executor::Executor(int threads, size_t max_queued, const char* name) : max_queued_(max_queued) {
  for (int i = 0; i < std::max(threads, 1); ++i) {
    threads_.emplace_back([this] { Run(); });
    pthread_setname_np(threads_.back().native_handle(), name);
  }
}

Executor::~Executor() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Executor::Submit(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
}

bool Executor::TrySubmit(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    if (tasks_.size() >= max_queued_ || stopping_) return false;
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
  return true;
}

void Executor::Run() {
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

void Strand::Post(std::function<void()> task) {
  {
    std::lock_guard lock(state_->mutex);
    state_->tasks.push_back(std::move(task));
    if (state_->running) return;
    state_->running = true;
  }
  executor_->Submit([state = state_] { Run(state); });
}

void Strand::Dispatch(std::function<void()> task) {
  {
    std::lock_guard lock(state_->mutex);
    if (state_->running) {
      state_->tasks.push_back(std::move(task));
      return;
    }
    state_->running = true;
  }
  task();
  {
    std::lock_guard lock(state_->mutex);
    if (state_->tasks.empty()) {
      state_->running = false;
      return;
    }
  }
  executor_->Submit([state = state_] { Run(state); });  // what came meanwhile is not the caller's to wait for
}

void Strand::Run(const std::shared_ptr<State>& state) {
  for (;;) {
    std::function<void()> task;
    {
      std::lock_guard lock(state->mutex);
      if (state->tasks.empty()) {
        state->running = false;
        return;
      }
      task = std::move(state->tasks.front());
      state->tasks.pop_front();
    }
    task();
  }
}

}  // namespace keepstep::daemon
