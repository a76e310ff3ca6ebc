// Chunks of blobs in staging memory: shared by loads that run now, kept warm for loads that come.
//
// Each block of a chunk is absent or verified. One load at a time fills a chunk (reads absent blocks and
// verifies them); others that need it wait, and find their blocks or fill what is still absent: every block
// is read once (single flight). A filler never writes to bytes of verified blocks, for others deliver from
// them. Unpinned chunks stay, the one used longest ago goes first, and all go before the pool grows or
// anybody waits. Whoever prefers a node gets the one there that was used longest ago, unless it is among the newest
// quarter: few buffers of a node are not to be the whole cache of what uses it.
//
// Thread-safe. Takes no lock of its caller's; callbacks run without locks.

#ifndef KEEPSTEP_DAEMON_BLOCK_CACHE_H_
#define KEEPSTEP_DAEMON_BLOCK_CACHE_H_

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "daemon/cancellation.h"
#include "daemon/staging_pool.h"

namespace keepstep::daemon {

// Names one chunk: `blob` is unique in the daemon (the job's identity, then the blob's path).
struct ChunkKey {
  std::string blob;
  int64_t begin = 0;

  friend bool operator<(const ChunkKey& a, const ChunkKey& b) {
    return a.blob != b.blob ? a.blob < b.blob : a.begin < b.begin;
  }
};

class BlockCache {
 private:
  struct Entry;

 public:
  // A chunk that cannot go away while this lives. Move-only.
  class Pin {
   public:
    Pin() = default;
    Pin(Pin&& other) noexcept;
    Pin& operator=(Pin&& other) noexcept;
    ~Pin();

    explicit operator bool() const { return entry_ != nullptr; }
    std::byte* data() const;  // byte ImageBegin(chunk) of the blob
    // By block. A verified block's bytes never change while pinned.
    std::vector<bool> verified() const;

    // Becomes the chunk's filler, or, while another load is, queues `retry` (called once, when that one
    // ends) and returns false.
    bool TryFill(std::function<void()> retry) const;
    // REQUIRES: this pin's TryFill gave true. Marks blocks, ends the filling and runs what queued.
    void EndFill(absl::Span<const uint32_t> verified_blocks) const;

   private:
    friend class BlockCache;
    Pin(BlockCache* cache, std::shared_ptr<Entry> entry) : cache_(cache), entry_(std::move(entry)) {}
    BlockCache* cache_ = nullptr;
    std::shared_ptr<Entry> entry_;
  };

  struct Stats {
    int64_t chunks = 0, idle_chunks = 0;
  };

  explicit BlockCache(StagingPool* pool);  // becomes its reclaimer; the pool outlives the cache
  ~BlockCache();                           // no pin lives
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;

  // Pins the chunk; takes an empty buffer for it if it is not there, if possible near `node`. Blocks for that; errors
  // of StagingPool::Acquire.
  absl::StatusOr<Pin> Get(const ChunkKey& key, uint32_t block_count, Cancellation& cancel, int node = kAnyNode);

  // Keeps a chunk whose every byte a save has just digested. Unless somebody waits for memory, or it is
  // known.
  void Keep(const ChunkKey& key, uint32_t block_count, StagingBuffer buffer);

  // Forgets every chunk of blobs that begin with `blob_prefix`; pinned ones when unpinned.
  void Invalidate(absl::string_view blob_prefix);

  Stats stats() const;

 private:
  void Unpin(std::shared_ptr<Entry> entry);
  bool EvictOldest(int node);
  Entry* OldestLocked(int node) const;
  void IdleLocked(Entry& entry);
  void BusyLocked(Entry& entry);
  void ForgetLocked(Entry& entry);

  StagingPool* const pool_;
  mutable std::mutex mutex_;
  absl::btree_map<ChunkKey, std::shared_ptr<Entry>> entries_;
  std::map<int, std::list<Entry*>> idle_;  // by the buffer's node; least recently used first
  int64_t idle_count_ = 0;
  int64_t uses_ = 0;  // that have ended
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_BLOCK_CACHE_H_
