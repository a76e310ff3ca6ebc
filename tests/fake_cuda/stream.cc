#include "tests/fake_cuda/stream.h"

#include <algorithm>
#include <thread>

namespace keepstep::fake_cuda {

uint64_t Stream::Enqueue(Operation operation) {
  std::lock_guard lock(mutex_);
  entries_.push_back({std::move(operation), std::chrono::steady_clock::now()});
  ++queued_;
  if (!started_) {
    started_ = true;
    std::thread([self = shared_from_this()] { self->Run(); }).detach();
  }
  changed_.notify_all();
  return queued_;
}

uint64_t Stream::queued() const {
  std::lock_guard lock(mutex_);
  return queued_;
}

bool Stream::Through(uint64_t ticket) const {
  std::lock_guard lock(mutex_);
  return through_ >= ticket;
}

void Stream::Wait(uint64_t ticket) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return through_ >= ticket; });
}

void Stream::Close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

void Stream::Run() {
  Time due{};
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return closed_ || !entries_.empty(); });
    if (entries_.empty()) return;
    Entry entry = std::move(entries_.front());
    entries_.pop_front();
    lock.unlock();
    if (sticky_.code() == CUDA_SUCCESS) due = entry.operation(std::max(due, entry.queued_at));
    entry.operation = nullptr;  // what it held is let go before anybody hears that it is through
    lock.lock();
    ++through_;
    changed_.notify_all();
  }
}

bool& InHostFunction() {
  thread_local bool inside = false;
  return inside;
}

}  // namespace keepstep::fake_cuda
