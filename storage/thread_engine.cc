// Each thread takes one operation at a time and moves all of it. A thread leaves only when it finds the queue
// empty after the stop, so what a `done` submits meanwhile is taken by the thread that ran it.

#include "storage/thread_engine.h"

#include <errno.h>
#include <sys/uio.h>

#include <utility>

#include "storage/io_transfer.h"

namespace keepstep::storage {
namespace {

int64_t MovePiece(const IoTransfer& transfer) {
  iovec piece{transfer.piece(), transfer.piece_bytes()};
  const ssize_t result =
      transfer.is_write()
          ? pwritev2(transfer.fd(), &piece, 1, transfer.piece_offset_bytes(), transfer.rw_flags())
          : preadv2(transfer.fd(), &piece, 1, transfer.piece_offset_bytes(), transfer.rw_flags());
  return result < 0 ? -int64_t{errno} : result;
}

}  // namespace

ThreadEngine::ThreadEngine(int threads, size_t max_queued) : max_queued_(max_queued) {
  threads_.reserve(static_cast<size_t>(threads));
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
}

ThreadEngine::~ThreadEngine() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadEngine::Submit(IoOp op) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (queue_.size() < max_queued_) {
      queue_.push_back(std::move(op));
      work_.notify_one();
      return;
    }
  }
  op.done(-ENOBUFS);
}

void ThreadEngine::Run() {
  while (true) {
    std::unique_lock<std::mutex> lock(mutex_);
    work_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    IoTransfer transfer(std::move(queue_.front()));
    queue_.pop_front();
    lock.unlock();
    while (!transfer.Advance(MovePiece(transfer))) {
    }
    transfer.Finish();
  }
}

}  // namespace keepstep::storage
