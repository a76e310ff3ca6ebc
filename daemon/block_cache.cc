#include "daemon/block_cache.h"

#include <utility>

#include "absl/strings/match.h"
#include "reshard/check.h"

namespace keepstep::daemon {

struct BlockCache::Entry {
  ChunkKey key;
  StagingBuffer buffer;
  // All below: guarded by the cache's mutex.
  std::vector<bool> verified;
  bool filling = false;
  bool forgotten = false;  // no longer in entries_
  int pins = 0;
  std::list<Entry*>::iterator idle_place;  // iff pins == 0 and not forgotten
  int64_t used = 0;                        // when it was put there, in uses_
  std::vector<std::function<void()>> retries;
};

BlockCache::Pin::Pin(Pin&& other) noexcept
    : cache_(std::exchange(other.cache_, nullptr)), entry_(std::move(other.entry_)) {}

BlockCache::Pin& BlockCache::Pin::operator=(Pin&& other) noexcept {
  if (this == &other) return *this;
  if (entry_ != nullptr) cache_->Unpin(std::move(entry_));
  cache_ = std::exchange(other.cache_, nullptr);
  entry_ = std::move(other.entry_);
  return *this;
}

BlockCache::Pin::~Pin() {
  if (entry_ != nullptr) cache_->Unpin(std::move(entry_));
}

std::byte* BlockCache::Pin::data() const { return entry_->buffer.data(); }

std::vector<bool> BlockCache::Pin::verified() const {
  std::lock_guard<std::mutex> lock(cache_->mutex_);
  return entry_->verified;
}

bool BlockCache::Pin::TryFill(std::function<void()> retry) const {
  std::lock_guard<std::mutex> lock(cache_->mutex_);
  if (entry_->filling) {
    entry_->retries.push_back(std::move(retry));
    return false;
  }
  return entry_->filling = true;
}

void BlockCache::Pin::EndFill(absl::Span<const uint32_t> verified_blocks) const {
  std::vector<std::function<void()>> retries;
  {
    std::lock_guard<std::mutex> lock(cache_->mutex_);
    KEEPSTEP_CHECK(entry_->filling, "a fill ends that never began");
    for (uint32_t block : verified_blocks) entry_->verified[block] = true;
    entry_->filling = false;
    retries.swap(entry_->retries);
  }
  for (std::function<void()>& retry : retries) retry();
}

BlockCache::BlockCache(StagingPool* pool) : pool_(pool) {
  pool_->SetReclaimer([this](int node) { return EvictOldest(node); });
}

BlockCache::~BlockCache() {
  pool_->SetReclaimer(nullptr);
  for (auto& [key, entry] : entries_) KEEPSTEP_CHECK(entry->pins == 0, "a pinned chunk outlives its cache");
}

absl::StatusOr<BlockCache::Pin> BlockCache::Get(const ChunkKey& key, uint32_t block_count,
                                                Cancellation& cancel, int node) {
  const auto pin_known = [&]() -> std::shared_ptr<Entry> {
    const auto found = entries_.find(key);
    if (found == entries_.end()) return nullptr;
    KEEPSTEP_CHECK(found->second->verified.size() == block_count, "two grids for one blob");
    if (found->second->pins++ == 0) BusyLocked(*found->second);
    return found->second;
  };
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (auto entry = pin_known()) return Pin(this, std::move(entry));
  }
  absl::StatusOr<StagingBuffer> buffer = pool_->Acquire(cancel, node);  // given back if another load was faster
  if (!buffer.ok()) return buffer.status();
  std::lock_guard<std::mutex> lock(mutex_);
  if (auto entry = pin_known()) return Pin(this, std::move(entry));
  auto entry = std::make_shared<Entry>();
  entry->key = key;
  entry->buffer = *std::move(buffer);
  entry->verified.resize(block_count);
  entry->pins = 1;
  entries_.emplace(key, entry);
  return Pin(this, std::move(entry));
}

void BlockCache::Keep(const ChunkKey& key, uint32_t block_count, StagingBuffer buffer) {
  if (pool_->HasWaiters()) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (entries_.contains(key)) return;
    auto entry = std::make_shared<Entry>();
    entry->key = key;
    entry->buffer = std::move(buffer);
    entry->verified.resize(block_count, true);
    IdleLocked(*entry);
    entries_.emplace(key, std::move(entry));
  }
  if (pool_->HasWaiters()) EvictOldest(kAnyNode);  // who came meanwhile found nothing to reclaim
}

void BlockCache::Unpin(std::shared_ptr<Entry> entry) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (--entry->pins == 0 && !entry->forgotten) IdleLocked(*entry);
  }
  entry.reset();  // a forgotten one gives its buffer back here, without the lock
  if (pool_->HasWaiters()) EvictOldest(kAnyNode);
}

void BlockCache::IdleLocked(Entry& entry) {
  std::list<Entry*>& idle = idle_[entry.buffer.node()];
  entry.idle_place = idle.insert(idle.end(), &entry);
  entry.used = ++uses_;
  ++idle_count_;
}

void BlockCache::BusyLocked(Entry& entry) {
  idle_[entry.buffer.node()].erase(entry.idle_place);
  --idle_count_;
}

// Null: none is idle.
BlockCache::Entry* BlockCache::OldestLocked(int node) const {
  Entry* oldest = nullptr;
  for (const auto& [of, idle] : idle_) {
    if (idle.empty()) continue;
    if (node != kAnyNode && of == node && uses_ - idle.front()->used > idle_count_ / 4) return idle.front();
    if (oldest == nullptr || idle.front()->used < oldest->used) oldest = idle.front();
  }
  return oldest;
}

bool BlockCache::EvictOldest(int node) {
  std::shared_ptr<Entry> oldest;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const Entry* const first = OldestLocked(node);
    if (first == nullptr) return false;
    const auto found = entries_.find(first->key);
    oldest = std::move(found->second);
    ForgetLocked(*oldest);
    entries_.erase(found);
  }
  return true;
}

void BlockCache::ForgetLocked(Entry& entry) {
  if (entry.pins == 0) BusyLocked(entry);
  entry.forgotten = true;
}

void BlockCache::Invalidate(absl::string_view blob_prefix) {
  std::vector<std::shared_ptr<Entry>> gone;  // destroyed without the lock
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto at = entries_.lower_bound(ChunkKey{std::string(blob_prefix), INT64_MIN});
    while (at != entries_.end() && absl::StartsWith(at->first.blob, blob_prefix)) {
      ForgetLocked(*at->second);
      gone.push_back(std::move(at->second));
      at = entries_.erase(at);
    }
  }
}

BlockCache::Stats BlockCache::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return {static_cast<int64_t>(entries_.size()), idle_count_};
}

}  // namespace keepstep::daemon
