// A stream: a thread that does what is put into it, one after the other.
//
// Once the context has a sticky error nothing more is done: what is queued is passed over, so that whoever
// waits comes back and finds the error.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_STREAM_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_STREAM_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "tests/fake_cuda/sticky.h"

namespace keepstep::fake_cuda {

using Time = std::chrono::steady_clock::time_point;

// Thread-safe. Held by shared_ptr: the thread holds it too, until Close and then the last operation are
// through.
class Stream : public std::enable_shared_from_this<Stream> {
 public:
  // What the thread does. `ready` is when it could begin: when it was queued, or when the one before it was
  // due to end, whichever is later. Returns when it is due to have ended.
  using Operation = std::function<Time(Time ready)>;

  Stream(Sticky& sticky, bool blocking) : sticky_(sticky), blocking_(blocking) {}

  // Queues `operation`; returns its ticket. Tickets count up from 1.
  uint64_t Enqueue(Operation operation);

  // How many have been queued and how many are through.
  uint64_t queued() const;
  bool Through(uint64_t ticket) const;

  // Blocks until the operation is through.
  void Wait(uint64_t ticket);

  // The thread ends once everything queued is through. Returns at once.
  void Close();

  // Orders itself with the legacy default stream.
  bool blocking() const { return blocking_; }

 private:
  struct Entry {
    Operation operation;
    Time queued_at;
  };

  void Run();

  Sticky& sticky_;
  const bool blocking_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Entry> entries_;
  uint64_t queued_ = 0;  // through_ ≤ queued_
  uint64_t through_ = 0;
  bool started_ = false;
  bool closed_ = false;
};

// True on a thread that runs a function of cuLaunchHostFunc, where no call of the driver is permitted.
bool& InHostFunction();

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_STREAM_H_
