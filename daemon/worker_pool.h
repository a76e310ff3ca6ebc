// The threads that move and digest bytes, shared by every save and load of the daemon.
//
// Two queues: copies open a trainer's gate, so all workers take them first; what is left is digests. The
// number of queued tasks is bounded by the staging buffers that they hold. Workers run in the background (scheduling.h).

#ifndef KEEPSTEP_DAEMON_WORKER_POOL_H_
#define KEEPSTEP_DAEMON_WORKER_POOL_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace keepstep::daemon {

enum class Urgency { kCopy, kDigest };

class WorkerPool {
 public:
  explicit WorkerPool(int workers);  // at least one
  ~WorkerPool();                     // runs what was submitted, then joins; not from a worker
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Thread-safe; never blocks. Tasks of one urgency start in the order of submission.
  void Submit(Urgency urgency, std::function<void()> task);

  int workers() const { return static_cast<int>(threads_.size()); }

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> copies_, digests_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_WORKER_POOL_H_
