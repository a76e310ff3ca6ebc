// The memory that is registered: the only memory that the copy thread touches.

#ifndef KEEPSTEP_CLIENT_BUFFER_TABLE_H_
#define KEEPSTEP_CLIENT_BUFFER_TABLE_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "client/device/allocation.h"

namespace keepstep::client {

struct MemoryRange {
  uint64_t address = 0;
  uint64_t size_bytes = 0;
};

// Thread-safe.
class BufferTable {
 public:
  using Allocations = std::shared_ptr<const std::vector<Allocation>>;

  // `allocations`: those of GPU memory that any of `ranges` lie in, in the order of their addresses.
  void Replace(const std::vector<MemoryRange>& ranges, std::vector<Allocation> allocations = {});

  // Whether [address, address + size_bytes) lies inside registered buffers.
  bool Contains(uint64_t address, uint64_t size_bytes) const;

  // Of GPU memory; never null.
  Allocations allocations() const;

  // While any exists, buffers may be written: a load is under way.
  class LoadScope {
   public:
    explicit LoadScope(BufferTable* table) : table_(table) { ++table_->loads_; }
    ~LoadScope() { --table_->loads_; }
    LoadScope(const LoadScope&) = delete;
    LoadScope& operator=(const LoadScope&) = delete;

   private:
    BufferTable* table_;
  };
  bool MayWrite() const { return loads_ > 0; }

 private:
  mutable std::mutex mu_;
  std::map<uint64_t, uint64_t> runs_;  // guarded by mu_; address → size, apart from each other
  Allocations allocations_ = std::make_shared<const std::vector<Allocation>>();  // guarded by mu_
  std::atomic<int> loads_{0};
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_BUFFER_TABLE_H_
