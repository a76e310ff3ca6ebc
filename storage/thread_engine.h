// An IoEngine of plain threads and pread/pwrite, for kernels and containers without io_uring.
//
// Invariant: an operation is in the queue, in the hands of one thread, or finished.

#ifndef KEEPSTEP_STORAGE_THREAD_ENGINE_H_
#define KEEPSTEP_STORAGE_THREAD_ENGINE_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "storage/io_engine.h"

namespace keepstep::storage {

class ThreadEngine : public IoEngine {
 public:
  ThreadEngine(int threads, size_t max_queued);
  ~ThreadEngine() override;

  void Submit(IoOp op) override;

 private:
  void Run();

  const size_t max_queued_;
  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<IoOp> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_THREAD_ENGINE_H_
