// One io_uring, owned and touched by one thread of its own.
//
// Invariants: in_flight <= depth, and each operation in flight holds one slot; queued <= max_queued. The
// thread leaves only when it is told to stop, nothing is queued and nothing is in flight, so `done` runs for
// every operation.

#ifndef KEEPSTEP_STORAGE_URING_RING_H_
#define KEEPSTEP_STORAGE_URING_RING_H_

#include <liburing.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "storage/io_engine.h"
#include "storage/io_transfer.h"
#include "storage/unique_fd.h"

namespace keepstep::storage {

class UringRing {
 public:
  // Sets a ring up on its thread and sends a no-op round it. UNAVAILABLE where that does not work.
  static absl::StatusOr<std::unique_ptr<UringRing>> Start(int depth, size_t max_queued);
  ~UringRing();  // stops it

  // As IoEngine::Submit; thread-safe.
  void Submit(IoOp op);

  // Waits for everything submitted and ends the thread; may be called twice. Submit no more, except from a
  // `done`.
  void Stop();

  bool IsOwnThread() const { return std::this_thread::get_id() == thread_id_; }
  const std::string& mode() const { return mode_; }

 private:
  UringRing(int depth, size_t max_queued, UniqueFd wake);

  void Run();
  absl::Status SetUp();
  absl::Status CheckOperations();
  absl::Status RoundTrip();
  bool TakeQueued();
  void Prepare(size_t slot);
  void ArmWake();
  void SubmitAndWait();
  void Reap();
  void Complete(size_t slot, int result);
  io_uring_sqe* NextEntry();

  const size_t max_queued_;
  const UniqueFd wake_;  // an eventfd that the ring polls: Submit and the destructor write to it

  std::mutex mutex_;
  std::deque<IoOp> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  // Touched by the ring's thread alone, after SetUp.
  io_uring ring_{};
  std::vector<std::optional<IoTransfer>> slots_;
  std::vector<size_t> free_slots_;
  bool wake_armed_ = false;
  std::string mode_;

  std::thread::id thread_id_;  // stays when thread_ has been joined
  std::thread thread_;
};

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_URING_RING_H_
