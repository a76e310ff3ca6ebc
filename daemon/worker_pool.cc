#include "daemon/worker_pool.h"

#include <algorithm>
#include <utility>

#include "daemon/scheduling.h"

namespace keepstep::daemon {

WorkerPool::WorkerPool(int workers) {
  threads_.reserve(std::max(workers, 1));
  for (int i = 0; i < std::max(workers, 1); ++i) threads_.emplace_back([this] { Run(); });
}

WorkerPool::~WorkerPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::Submit(Urgency urgency, std::function<void()> task) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    (urgency == Urgency::kCopy ? copies_ : digests_).push_back(std::move(task));
  }
  wake_.notify_one();
}

void WorkerPool::Run() {
  WorkInBackground();
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !copies_.empty() || !digests_.empty(); });
    auto& queue = copies_.empty() ? digests_ : copies_;
    if (queue.empty()) return;
    std::function<void()> task = std::move(queue.front());
    queue.pop_front();
    lock.unlock();
    task();
    task = nullptr;  // what it holds goes before the next wait
    lock.lock();
  }
}

}  // namespace keepstep::daemon
