#include "daemon/staging_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <fstream>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "reshard/check.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kPageBytes = 4096;
constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE: older headers lack the name

int64_t MachineMemoryBytes() {
  int64_t bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  std::ifstream limit_file("/sys/fs/cgroup/memory.max");
  int64_t limit_bytes = 0;
  if (limit_file >> limit_bytes && limit_bytes > 0) bytes = std::min(bytes, limit_bytes);
  return bytes;
}

std::byte* AlignUp(std::byte* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  return address + ((at + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes - at);
}

absl::Status OutOfMemory(absl::string_view call, int error) {
  return absl::ResourceExhaustedError(absl::StrCat("staging memory: ", call, ": errno ", error));
}

}  // namespace

StagingBuffer::StagingBuffer(StagingBuffer&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), index_(other.index_) {}

StagingBuffer& StagingBuffer::operator=(StagingBuffer&& other) noexcept {
  if (this == &other) return *this;
  if (pool_ != nullptr) pool_->Release(index_);
  pool_ = std::exchange(other.pool_, nullptr);
  index_ = other.index_;
  return *this;
}

StagingBuffer::~StagingBuffer() {
  if (pool_ != nullptr) pool_->Release(index_);
}

absl::Span<std::byte> StagingBuffer::span() const {
  return absl::MakeSpan(pool_->base_ + index_ * pool_->buffer_bytes_,
                        static_cast<size_t>(pool_->buffer_bytes_));
}

int StagingBuffer::node() const { return pool_->nodes_[index_]; }

absl::StatusOr<std::unique_ptr<StagingPool>> StagingPool::Start(const Options& options) {
  if (options.buffer_bytes <= 0 || options.buffer_bytes % kPageBytes != 0)
    return absl::InvalidArgumentError("the staging buffer size is not a multiple of 4096");
  const int64_t limit_bytes = options.limit_bytes > 0 ? options.limit_bytes : MachineMemoryBytes() / 4;
  const int64_t slots = limit_bytes / options.buffer_bytes;
  if (slots < 1 || slots > 1 << 24) {
    return absl::InvalidArgumentError(
        absl::StrCat("a staging pool of ", limit_bytes, " bytes; it needs at least ", options.buffer_bytes));
  }
  const size_t size_bytes = slots * options.buffer_bytes + (options.shared ? kBounceBytes : kHugePageBytes);
  storage::UniqueFd memory_fd;
  if (options.shared) {
    memory_fd = storage::UniqueFd(memfd_create("keepstep-pool", MFD_CLOEXEC));
    if (!memory_fd.valid()) return OutOfMemory("memfd_create", errno);
    if (ftruncate(memory_fd.get(), static_cast<off_t>(size_bytes)) != 0) return OutOfMemory("ftruncate", errno);
  }
  const int flags = options.shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  void* memory =
      mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, memory_fd.get(), 0);
  if (memory == MAP_FAILED) return OutOfMemory("mmap", errno);
  madvise(memory, size_bytes, MADV_HUGEPAGE);  // refused: small pages serve as well
  madvise(memory, size_bytes, MADV_DONTFORK);  // a child would make each page be copied that is written next
  madvise(memory, size_bytes, MADV_DONTDUMP);  // gigabytes of weights explain no crash
  std::unique_ptr<StagingPool> pool(
      new StagingPool(options, absl::MakeSpan(static_cast<std::byte*>(memory), size_bytes),
                      std::move(memory_fd), static_cast<int>(slots)));
  if (absl::Status status = pool->Reserve(options.initial_bytes); !status.ok()) return status;
  return pool;
}

StagingPool::StagingPool(const Options& options, absl::Span<std::byte> mapping, storage::UniqueFd memory_fd,
                         int slots)
    : buffer_bytes_(options.buffer_bytes),
      prefault_threads_(std::clamp(options.prefault_threads, 1, 64)),
      mapping_(mapping),
      memory_fd_(std::move(memory_fd)),
      base_(memory_fd_.valid() ? mapping.data() : AlignUp(mapping.data())),
      place_(options.place),
      slots_(slots, SlotState::kAbsent),
      nodes_(slots, kAnyNode) {}

StagingPool::~StagingPool() {
  KEEPSTEP_CHECK(held_ == 0 && waiters_.empty(), "a staging buffer outlives its pool");
  munmap(mapping_.data(), mapping_.size());
}

void StagingPool::Release(int index) {
  std::lock_guard<std::mutex> lock(mutex_);
  KEEPSTEP_CHECK(slots_[index] == SlotState::kHeld, "a staging buffer came back twice");
  --held_;
  GrantLocked(index);
}

// Gives a present slot that nobody holds to one in the line, or keeps it free.
void StagingPool::GrantLocked(int index) {
  if (waiters_.empty()) {
    slots_[index] = SlotState::kFree;
    free_[nodes_[index]].push_back(index);
    return;
  }
  auto chosen = waiters_.begin();
  if ((*chosen)->passed < kMostPassed) {
    const auto near = std::find_if(waiters_.begin(), waiters_.end(),
                                   [&](const Waiter* waiter) { return waiter->node == nodes_[index]; });
    if (near != waiters_.end()) chosen = near;
  }
  std::for_each(waiters_.begin(), chosen, [](Waiter* waiter) { ++waiter->passed; });
  Waiter* const waiter = *chosen;
  waiters_.erase(chosen);
  HoldLocked(index, waiter->node);
  waiter->granted = index;
  waiter->ready.notify_one();
}

// `node`: what its holder prefers.
void StagingPool::HoldLocked(int index, int node) {
  slots_[index] = SlotState::kHeld;
  high_water_ = std::max(high_water_, ++held_);
  ++taken_;
  if (node != kAnyNode) ++(nodes_[index] == node ? taken_near_ : taken_elsewhere_);
}

// What lies anywhere goes before what others prefer.
int StagingPool::TakeFreeLocked(int node) {
  auto from = free_.find(node);
  if (from == free_.end()) from = free_.begin();
  if (from == free_.end()) return -1;
  const int index = from->second.back();
  from->second.pop_back();
  if (from->second.empty()) free_.erase(from);
  HoldLocked(index, node);
  return index;
}

int StagingPool::TakeAbsentLocked(int node) {
  if (present_ == static_cast<int>(slots_.size())) return -1;
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i] != SlotState::kAbsent) continue;
    slots_[i] = SlotState::kFaulting;
    ++present_;
    ++present_near_[node];
    return static_cast<int>(i);
  }
  return -1;
}

// Places a kFaulting slot that was taken for `node` and faults it in; back to absent where the kernel has no memory.
absl::Status StagingPool::Populate(int index, int node) {
  std::byte* begin = base_ + index * buffer_bytes_;
  if (nodes_[index] != node) {  // what was placed once stays so, also while it has no memory
    if (place_) place_(absl::MakeSpan(begin, static_cast<size_t>(buffer_bytes_)), node);
    nodes_[index] = node;
  }
  int error = 0;
  if (madvise(begin, buffer_bytes_, kPopulateWrite) != 0) error = errno;
  if (error == EINVAL) {  // before Linux 5.14
    error = 0;
    for (int64_t at = 0; at < buffer_bytes_; at += kPageBytes)
      reinterpret_cast<volatile std::byte*>(begin)[at] = std::byte{0};
  }
  if (error == 0) return absl::OkStatus();
  std::lock_guard<std::mutex> lock(mutex_);
  slots_[index] = SlotState::kAbsent;
  --present_;
  --present_near_[node];
  return OutOfMemory("populate", error);
}

// Grows by a held slot near `node` in place of a free one elsewhere, if growth is expected. -1: it is not, or there is
// a free one near, or no memory: then what is free elsewhere will do.
int StagingPool::GrowNear(int node) {
  int index;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (node == kAnyNode || !waiters_.empty() || present_ >= wanted_ || free_.contains(node)) return -1;
    index = TakeAbsentLocked(node);
  }
  if (index < 0 || !Populate(index, node).ok()) return -1;
  std::lock_guard<std::mutex> lock(mutex_);
  HoldLocked(index, node);
  return index;
}

absl::StatusOr<StagingBuffer> StagingPool::Acquire(Cancellation& cancel, int node, Clock::time_point deadline) {
  if (cancel.cancelled()) return cancel.status();
  if (const int index = GrowNear(node); index >= 0) return StagingBuffer(this, index);
  Waiter waiter;
  waiter.node = node;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (waiters_.empty()) {
      if (const int index = TakeFreeLocked(node); index >= 0) return StagingBuffer(this, index);
    }
    waiters_.push_back(&waiter);  // before anything is reclaimed: what comes free meanwhile is for the line
  }
  absl::Status failure;
  bool granted = false;
  {
    Cancellation::Hook hook(cancel, [this, &waiter] {
      std::lock_guard<std::mutex> lock(mutex_);
      waiter.cancelled = true;
      waiter.ready.notify_one();
    });
    while (Provide(waiter, &failure)) {
    }
    std::unique_lock<std::mutex> lock(mutex_);
    granted = Wait(lock, waiter, deadline);
  }
  if (granted) return StagingBuffer(this, waiter.granted);
  if (cancel.cancelled()) return cancel.status();
  if (!failure.ok()) return failure;
  return absl::DeadlineExceededError("no staging buffer came free in time");
}

// One step towards a buffer for the line: faults one in or reclaims one. False when `waiter` is served or
// cancelled, or nothing is left to do but wait.
bool StagingPool::Provide(Waiter& waiter, absl::Status* failure) {
  const auto take_absent = [&](bool beyond_wanted, int* index) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (waiter.granted >= 0 || waiter.cancelled) return false;
    *index = beyond_wanted || present_ < wanted_ ? TakeAbsentLocked(waiter.node) : -1;
    return true;
  };
  int index = -1;
  if (!take_absent(false, &index)) return false;
  if (index < 0) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      waiter.needy =
          true;  // before the reclaimer looks: what it does not find now is given back at once later
    }
    if (give_up_ && give_up_(waiter.node)) return true;
    if (!take_absent(true, &index)) return false;
  }
  if (index < 0) return false;
  *failure = Populate(index, waiter.node);
  if (!failure->ok()) return false;
  std::lock_guard<std::mutex> lock(mutex_);
  GrantLocked(index);
  return true;
}

bool StagingPool::Wait(std::unique_lock<std::mutex>& lock, Waiter& waiter, Clock::time_point deadline) {
  const auto over = [&] { return waiter.granted >= 0 || waiter.cancelled; };
  if (present_ == 0 && !over()) {
    Forget(waiter);
    return false;
  }
  if (deadline == Clock::time_point::max()) {
    waiter.ready.wait(lock, over);
  } else {
    waiter.ready.wait_until(lock, deadline, over);
  }
  if (waiter.granted >= 0) return true;
  Forget(waiter);
  return false;
}

void StagingPool::Forget(Waiter& waiter) {
  waiters_.erase(std::remove(waiters_.begin(), waiters_.end(), &waiter), waiters_.end());
}

// An absent slot that `want` or `near` lacks, and where it is to be; -1: they lack none.
int StagingPool::TakeToReserve(int64_t want, const std::map<int, int64_t>& near, int* node) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [preferred, bytes] : near) {
    *node = preferred;
    if (present_near_[preferred] * buffer_bytes_ < bytes) return TakeAbsentLocked(preferred);
  }
  *node = kAnyNode;
  return present_ < want ? TakeAbsentLocked(kAnyNode) : -1;
}

absl::Status StagingPool::Reserve(int64_t bytes, const std::map<int, int64_t>& near) {
  const int64_t want =
      std::min<int64_t>((bytes + buffer_bytes_ - 1) / buffer_bytes_, static_cast<int64_t>(slots_.size()));
  {
    std::lock_guard<std::mutex> lock(mutex_);
    wanted_ = std::max(wanted_, want);
  }
  std::mutex failure_mutex;
  absl::Status failure;
  const auto grow = [&] {
    for (;;) {
      int node = kAnyNode;
      const int index = TakeToReserve(want, near, &node);
      if (index < 0) return;
      if (absl::Status status = Populate(index, node); !status.ok()) {
        std::lock_guard<std::mutex> lock(failure_mutex);
        failure = std::move(status);
        return;
      }
      std::lock_guard<std::mutex> lock(mutex_);
      GrantLocked(index);
    }
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < std::min<int64_t>(prefault_threads_, want); ++i) helpers.emplace_back(grow);
  grow();
  for (std::thread& helper : helpers) helper.join();
  return failure;
}

int64_t StagingPool::Shrink(int64_t keep_bytes, int64_t most_bytes) {
  int64_t freed_bytes = 0;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    wanted_ = keep_bytes / buffer_bytes_;
  }
  for (;;) {
    {
      std::lock_guard<std::mutex> lock(mutex_);  // for one buffer: whoever asks need not wait for all of them
      if (holds_ > 0 || present_ * buffer_bytes_ <= keep_bytes || freed_bytes + buffer_bytes_ > most_bytes)
        return freed_bytes;
      if (!free_.empty()) {
        const auto from = free_.begin();
        const int index = from->second.back();
        const int give_back = memory_fd_.valid() ? MADV_REMOVE : MADV_DONTNEED;
        if (madvise(base_ + index * buffer_bytes_, buffer_bytes_, give_back) != 0) return freed_bytes;
        from->second.pop_back();
        if (from->second.empty()) free_.erase(from);
        slots_[index] = SlotState::kAbsent;
        --present_;
        --present_near_[nodes_[index]];
        freed_bytes += buffer_bytes_;
        continue;
      }
    }
    if (!give_up_ || !give_up_(kAnyNode)) return freed_bytes;
  }
}

StagingPool::Expectation::Expectation(Expectation&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), work_(std::move(other.work_)), buffers_(other.buffers_) {}

StagingPool::Expectation& StagingPool::Expectation::operator=(Expectation&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(work_, other.work_);
  std::swap(buffers_, other.buffers_);
  return *this;
}

StagingPool::Expectation::~Expectation() {
  if (pool_ == nullptr) return;
  std::lock_guard<std::mutex> lock(pool_->mutex_);
  const auto found = pool_->expected_.find(work_);
  if (found != pool_->expected_.end() && (found->second -= buffers_) == 0) pool_->expected_.erase(found);
}

StagingPool::Expectation StagingPool::Expect(std::string work, int64_t buffers, int64_t most) {
  std::lock_guard<std::mutex> lock(mutex_);
  wanted_ = std::max(wanted_, std::min(expected_[work] += buffers, most));
  return Expectation(this, std::move(work), buffers);
}

int64_t StagingPool::OffsetOf(const std::byte* at, int64_t size_bytes) const {
  if (!memory_fd_.valid() || at < base_ || size_bytes > memory_bytes()) return -1;
  const int64_t offset_bytes = at - base_;
  return offset_bytes <= memory_bytes() - size_bytes ? offset_bytes : -1;
}

std::vector<bool> StagingPool::present() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<bool> found(slots_.size());
  for (size_t i = 0; i < slots_.size(); ++i) {
    found[i] = slots_[i] == SlotState::kFree || slots_[i] == SlotState::kHeld;
  }
  return found;
}

void StagingPool::Hold(bool hold) {
  std::lock_guard<std::mutex> lock(mutex_);
  holds_ += hold ? 1 : -1;
  KEEPSTEP_CHECK(holds_ >= 0, "a pool is released more often than it is held");
}

void StagingPool::SetReclaimer(std::function<bool(int)> give_up) { give_up_ = std::move(give_up); }

bool StagingPool::HasWaiters() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::any_of(waiters_.begin(), waiters_.end(), [](const Waiter* waiter) { return waiter->needy; });
}

StagingPool::Stats StagingPool::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  Stats stats;
  stats.limit_bytes = static_cast<int64_t>(slots_.size()) * buffer_bytes_;
  stats.capacity_bytes = present_ * buffer_bytes_;
  stats.used_bytes = held_ * buffer_bytes_;
  stats.high_water_bytes = high_water_ * buffer_bytes_;
  stats.waiters = static_cast<int64_t>(waiters_.size());
  stats.buffers_taken = taken_;
  stats.taken_near = taken_near_;
  stats.taken_elsewhere = taken_elsewhere_;
  return stats;
}

}  // namespace keepstep::daemon
