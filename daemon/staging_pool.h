// Staging memory: fixed buffers in one mapping, the only large memory of the daemon.
//
// Anonymous, or, for device workers to map too, a memfd: then nothing is given back while one of them holds it
// (Hold), since what is pinned there would be other pages than the daemon's from then on.
//
// In huge pages where the kernel gives them for the asking (transparent_hugepage/enabled is madvise or always,
// as nearly everywhere; for shared memory it is off nearly everywhere): a direct read or write of a buffer is
// then a few large pieces for the disk instead of thousands of pages, which here is three times as fast.
//
// Invariants: in use + cached <= capacity <= limit; a buffer belongs to one holder; nothing is handed out
// beyond the limit, whoever asks waits. Waiters are served in the order in which they came, but for nodes (below).
//
// A request is met, in this order, by: a free buffer; growth, while the pool is smaller than saves and loads
// have said they need; the cached buffer used longest ago (the reclaimer gives it up); growth, up
// to the limit; waiting. Memory is faulted in when the pool grows, by several threads for Reserve: touching
// fresh memory costs ten times a copy on virtual machines.
//
// On a machine of several NUMA nodes whoever asks may prefer one. What the pool grows by for them is placed there,
// and a buffer that was placed there goes first: of the free ones, before those elsewhere while growth is expected
// anyway, and of the cached ones. Of those who wait, a buffer goes to the first that prefers its node, but nobody is
// passed more than kMostPassed times. Nobody waits for a node: what is there is taken.

#ifndef KEEPSTEP_DAEMON_STAGING_POOL_H_
#define KEEPSTEP_DAEMON_STAGING_POOL_H_

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "daemon/cancellation.h"
#include "daemon/host_nodes.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

class StagingPool;

// One buffer, given back when destroyed. Move-only; must not outlive its pool.
class StagingBuffer {
 public:
  StagingBuffer() = default;
  StagingBuffer(StagingBuffer&& other) noexcept;
  StagingBuffer& operator=(StagingBuffer&& other) noexcept;
  ~StagingBuffer();

  explicit operator bool() const { return pool_ != nullptr; }
  absl::Span<std::byte> span() const;  // aligned to 4096
  std::byte* data() const { return span().data(); }
  int node() const;  // for which it was placed; kAnyNode: it lies anywhere

 private:
  friend class StagingPool;
  StagingBuffer(StagingPool* pool, int index) : pool_(pool), index_(index) {}

  StagingPool* pool_ = nullptr;
  int index_ = 0;
};

// Thread-safe.
class StagingPool {
 public:
  // 8 MiB, and at both ends room for what alignment adds to a run of whole blocks.
  static constexpr int64_t kDefaultBufferBytes = (int64_t{8} << 20) + 8192;
  using Clock = std::chrono::steady_clock;

  // Says where a range that has no memory yet is to get it: PreferNode (prefer_node.h). Called by several threads at
  // once. What it cannot do is its own to tell: the pool goes on as if it were done.
  using Place = std::function<void(absl::Span<std::byte> range, int node)>;

  struct Options {
    int64_t limit_bytes = 0;  // 0: a quarter of the machine's memory (or of the control group's limit)
    int64_t initial_bytes = int64_t{64} << 20;
    int64_t buffer_bytes = kDefaultBufferBytes;  // a multiple of 4096
    int prefault_threads = 4;
    bool shared = false;  // in a memfd
    Place place;          // null: wherever the kernel likes
  };
  struct Stats {
    int64_t limit_bytes = 0, capacity_bytes = 0;
    int64_t used_bytes = 0, high_water_bytes = 0;  // held, cached included
    int64_t waiters = 0;
    uint64_t buffers_taken = 0;  // since the start
    uint64_t taken_near = 0, taken_elsewhere = 0;  // of those, by who preferred a node
  };

  // INVALID_ARGUMENT for a limit below one buffer; RESOURCE_EXHAUSTED when the kernel gives no memory.
  static absl::StatusOr<std::unique_ptr<StagingPool>> Start(const Options& options);
  ~StagingPool();  // every buffer is back
  StagingPool(const StagingPool&) = delete;
  StagingPool& operator=(const StagingPool&) = delete;

  // Blocks until a buffer is there, if possible one near `node`. The status of `cancel` once cancelled,
  // DEADLINE_EXCEEDED after `deadline`, RESOURCE_EXHAUSTED when the kernel refuses memory and no buffer exists
  // that could come back.
  absl::StatusOr<StagingBuffer> Acquire(Cancellation& cancel, int node = kAnyNode,
                                        Clock::time_point deadline = Clock::time_point::max());

  // Grows to at least min(bytes, limit) with several threads, until so many of them are near each node that `near`
  // names, as far as the limit allows; blocks. For the time after a registration, so that the first save finds its
  // memory.
  absl::Status Reserve(int64_t bytes, const std::map<int, int64_t>& near = {});

  // Gives memory of free buffers, then of cached ones, back to the system until the capacity is at most
  // `keep_bytes` or `most_bytes` are freed. Returns bytes freed.
  int64_t Shrink(int64_t keep_bytes, int64_t most_bytes = std::numeric_limits<int64_t>::max());

  // One rank's part of some work that is under way. Move-only; must not outlive its pool.
  class Expectation {
   public:
    Expectation() = default;
    Expectation(Expectation&& other) noexcept;
    Expectation& operator=(Expectation&& other) noexcept;
    ~Expectation();

   private:
    friend class StagingPool;
    Expectation(StagingPool* pool, std::string work, int64_t buffers)
        : pool_(pool), work_(std::move(work)), buffers_(buffers) {}

    StagingPool* pool_ = nullptr;
    std::string work_;
    int64_t buffers_ = 0;
  };

  // Says that `work` (a save or load, of all its ranks together) asks for `buffers` more while the result lives, and for
  // at most `most` in all, where ranks share them. While the pool is smaller than what any work has asked for at once,
  // it grows before it gives up what is cached.
  [[nodiscard]] Expectation Expect(std::string work, int64_t buffers,
                                   int64_t most = std::numeric_limits<int64_t>::max());

  // `give_up` makes one cached buffer free (its StagingBuffer is destroyed), if it can one near `node`, and returns
  // whether it did. Called without locks, from Acquire. Set once, before the first Acquire; cleared (nullptr) after
  // the last.
  void SetReclaimer(std::function<bool(int node)> give_up);

  // Of a shared pool: its memfd (-1: it is private), which begins with the first buffer, and at its end
  // kBounceBytes that belong to no buffer.
  static constexpr int64_t kBounceBytes = int64_t{4} << 20;
  int memory_fd() const { return memory_fd_.get(); }
  int64_t memory_bytes() const { return static_cast<int64_t>(slots_.size()) * buffer_bytes_ + kBounceBytes; }
  // Where `at` lies in the memfd, or -1 when [at, at + size_bytes) does not lie in it.
  int64_t OffsetOf(const std::byte* at, int64_t size_bytes) const;
  std::byte* bounce() const { return base_ + memory_bytes() - kBounceBytes; }

  // Which buffers have memory, in the order in which they lie. While the pool is held, none of them loses it.
  std::vector<bool> present() const;

  // Until as many calls with false, Shrink gives nothing back.
  void Hold(bool hold);

  // Whether somebody needs what is cached: a cache then gives its buffers back rather than keep them.
  bool HasWaiters() const;

  Stats stats() const;
  int64_t buffer_bytes() const { return buffer_bytes_; }

 private:
  friend class StagingBuffer;
  static constexpr int kMostPassed = 4;
  struct Waiter {
    int node = kAnyNode;
    int passed = 0;  // by those who came later
    std::condition_variable ready;
    int granted = -1;
    bool cancelled = false;
    bool needy = false;  // found neither a free buffer nor growth that was expected
  };
  enum class SlotState : uint8_t { kAbsent, kFaulting, kFree, kHeld };

  StagingPool(const Options& options, absl::Span<std::byte> mapping, storage::UniqueFd memory_fd, int slots);

  void Release(int index);
  void GrantLocked(int index);
  void HoldLocked(int index, int node);
  int TakeFreeLocked(int node);
  int TakeAbsentLocked(int node);
  int TakeToReserve(int64_t want, const std::map<int, int64_t>& near, int* node);
  int GrowNear(int node);
  absl::Status Populate(int index, int node);
  bool Provide(Waiter& waiter, absl::Status* failure);
  void Forget(Waiter& waiter);
  bool Wait(std::unique_lock<std::mutex>& lock, Waiter& waiter, Clock::time_point deadline);

  const int64_t buffer_bytes_;
  const int prefault_threads_;
  const absl::Span<std::byte> mapping_;
  const storage::UniqueFd memory_fd_;
  std::byte* const base_;  // the first huge page's begin in it; of a memfd its begin
  const Place place_;
  std::function<bool(int)> give_up_;

  mutable std::mutex mutex_;
  std::vector<SlotState> slots_;
  std::vector<int> nodes_;                // by slot: the node it was placed for last; changes while it is kFaulting
  std::map<int, int> present_near_;       // by node: of present_
  std::map<int, std::vector<int>> free_;  // by node; last in, first out: warm in the processor's caches
  std::deque<Waiter*> waiters_;
  std::map<std::string, int64_t> expected_;  // buffers by work that is under way
  int64_t wanted_ = 0;                       // buffers: the most of any work so far, or what was reserved
  int present_ = 0;     // kFaulting, kFree, kHeld
  int held_ = 0;
  int high_water_ = 0;
  uint64_t taken_ = 0, taken_near_ = 0, taken_elsewhere_ = 0;
  int holds_ = 0;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_STAGING_POOL_H_
