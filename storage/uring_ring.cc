// The ring's loop, on its own thread:
//
//   1. Move queued operations into free slots and prepare an entry for each.
//   2. Keep one poll of the wake descriptor in the ring, so that a wait ends when something is queued.
//   3. Submit and wait for at least one completion.
//   4. For each completion: prepare the rest of a short transfer in the same slot, or free the slot and run
//      `done`.
//
// SINGLE_ISSUER and DEFER_TASKRUN, where the kernel has them, keep completions off other threads. No IOPOLL,
// no SQPOLL.

#include "storage/uring_ring.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"

namespace keepstep::storage {
namespace {

constexpr uint64_t kWakeTag = ~uint64_t{0};

struct SetUpMode {
  unsigned flags;
  const char* name;
};

constexpr SetUpMode kModes[] = {
    {IORING_SETUP_CLAMP | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, "deferred task runs"},
    {IORING_SETUP_CLAMP | IORING_SETUP_COOP_TASKRUN, "cooperative task runs"},
    {0, "plain"},
};

absl::Status Unavailable(const char* what, int error) {
  return absl::UnavailableError(absl::StrCat(what, ": ", strerror(error)));
}

[[noreturn]] void Die(const char* what, int error) {
  fprintf(stderr, "keepstep: io_uring broke: %s: %s\n", what, strerror(error));
  abort();
}

}  // namespace

absl::StatusOr<std::unique_ptr<UringRing>> UringRing::Start(int depth, size_t max_queued) {
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return Unavailable("eventfd", errno);
  std::unique_ptr<UringRing> ring(new UringRing(depth, max_queued, std::move(wake)));
  // A single issuer is whoever sets the ring up, so the thread does that itself.
  std::promise<absl::Status> ready;
  std::future<absl::Status> result = ready.get_future();
  ring->thread_ = std::thread([self = ring.get(), ready = std::move(ready)]() mutable {
    self->thread_id_ = std::this_thread::get_id();
    absl::Status status = self->SetUp();
    const bool works = status.ok();
    ready.set_value(std::move(status));
    if (works) self->Run();
  });
  if (absl::Status status = result.get(); !status.ok()) return status;
  return ring;
}

UringRing::UringRing(int depth, size_t max_queued, UniqueFd wake)
    : max_queued_(max_queued), wake_(std::move(wake)), slots_(static_cast<size_t>(depth)) {
  for (size_t slot = 0; slot < slots_.size(); ++slot) free_slots_.push_back(slot);
}

UringRing::~UringRing() { Stop(); }

void UringRing::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  eventfd_write(wake_.get(), 1);
  if (thread_.joinable()) thread_.join();
}

void UringRing::Submit(IoOp op) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    if (queue_.size() >= max_queued_) {
      lock.unlock();
      op.done(-ENOBUFS);
      return;
    }
    queue_.push_back(std::move(op));
  }
  if (!IsOwnThread()) eventfd_write(wake_.get(), 1);
}

absl::Status UringRing::SetUp() {
  int error = EINVAL;
  for (const SetUpMode& mode : kModes) {
    // Every slot may have an entry waiting, and so may the wake poll.
    error = -io_uring_queue_init(static_cast<unsigned>(slots_.size()) + 1, &ring_, mode.flags);
    mode_ = mode.name;
    if (error != EINVAL) break;
  }
  if (error != 0) return Unavailable("io_uring_setup", error);
  absl::Status status = CheckOperations();
  if (status.ok()) status = RoundTrip();
  if (!status.ok()) io_uring_queue_exit(&ring_);
  return status;
}

absl::Status UringRing::CheckOperations() {
  io_uring_probe* probe = io_uring_get_probe_ring(&ring_);
  if (probe == nullptr)
    return absl::UnavailableError("the kernel's io_uring is too old to say what it can do");
  bool supported = true;
  for (int operation : {IORING_OP_NOP, IORING_OP_READ, IORING_OP_WRITE, IORING_OP_POLL_ADD}) {
    supported = supported && io_uring_opcode_supported(probe, operation);
  }
  io_uring_free_probe(probe);
  return supported ? absl::OkStatus()
                   : absl::UnavailableError("the kernel's io_uring lacks read, write or poll");
}

absl::Status UringRing::RoundTrip() {
  io_uring_prep_nop(NextEntry());
  if (int submitted = io_uring_submit(&ring_); submitted < 0)
    return Unavailable("io_uring_enter", -submitted);
  io_uring_cqe* completion = nullptr;
  if (int waited = io_uring_wait_cqe(&ring_, &completion); waited < 0) {
    return Unavailable("waiting for a no-op", -waited);
  }
  const int result = completion->res;
  io_uring_cqe_seen(&ring_, completion);
  return result >= 0 ? absl::OkStatus() : Unavailable("a no-op", -result);
}

void UringRing::Run() {
  while (TakeQueued()) {
    ArmWake();
    SubmitAndWait();
    Reap();
  }
  // Drops the wake poll with the ring.
  io_uring_queue_exit(&ring_);
}

bool UringRing::TakeQueued() {
  std::lock_guard<std::mutex> lock(mutex_);
  while (!queue_.empty() && !free_slots_.empty()) {
    const size_t slot = free_slots_.back();
    free_slots_.pop_back();
    slots_[slot].emplace(std::move(queue_.front()));
    queue_.pop_front();
    Prepare(slot);
  }
  const bool idle = queue_.empty() && free_slots_.size() == slots_.size();
  return !(stopping_ && idle);
}

void UringRing::Prepare(size_t slot) {
  const IoTransfer& transfer = *slots_[slot];
  io_uring_sqe* entry = NextEntry();
  const auto size_bytes = static_cast<unsigned>(transfer.piece_bytes());
  const auto offset_bytes = static_cast<uint64_t>(transfer.piece_offset_bytes());
  if (transfer.is_write()) {
    io_uring_prep_write(entry, transfer.fd(), transfer.piece(), size_bytes, offset_bytes);
  } else {
    io_uring_prep_read(entry, transfer.fd(), transfer.piece(), size_bytes, offset_bytes);
  }
  entry->rw_flags = transfer.rw_flags();
  io_uring_sqe_set_data64(entry, slot);
}

void UringRing::ArmWake() {
  if (wake_armed_) return;
  io_uring_sqe* entry = NextEntry();
  io_uring_prep_poll_add(entry, wake_.get(), POLLIN);
  io_uring_sqe_set_data64(entry, kWakeTag);
  wake_armed_ = true;
}

void UringRing::SubmitAndWait() {
  const int result = io_uring_submit_and_wait(&ring_, 1);
  if (result >= 0 || result == -EINTR) return;
  // The kernel is short of memory or has completions to hand over: entries stay queued and go with the next
  // call.
  if (result != -EAGAIN && result != -EBUSY) Die("io_uring_enter", -result);
  if (io_uring_cq_ready(&ring_) == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

void UringRing::Reap() {
  io_uring_cqe* completion = nullptr;
  while (io_uring_peek_cqe(&ring_, &completion) == 0) {
    const uint64_t tag = io_uring_cqe_get_data64(completion);
    const int result = completion->res;
    io_uring_cqe_seen(&ring_, completion);
    if (tag == kWakeTag) {
      eventfd_t count;
      eventfd_read(wake_.get(), &count);
      wake_armed_ = false;
    } else {
      Complete(static_cast<size_t>(tag), result);
    }
  }
}

void UringRing::Complete(size_t slot, int result) {
  if (!slots_[slot]->Advance(result)) return Prepare(slot);
  IoTransfer finished = *std::move(slots_[slot]);
  slots_[slot].reset();
  free_slots_.push_back(slot);
  finished.Finish();
}

io_uring_sqe* UringRing::NextEntry() {
  // Each slot and the wake poll have at most one entry waiting, so one is free unless the invariant is
  // broken.
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  if (entry == nullptr) Die("no free submission entry", EBUSY);
  return entry;
}

}  // namespace keepstep::storage
