#include "client/buffer_table.h"

#include <algorithm>
#include <utility>

namespace keepstep::client {

void BufferTable::Replace(const std::vector<MemoryRange>& ranges, std::vector<Allocation> allocations) {
  std::map<uint64_t, uint64_t> longest;
  for (const MemoryRange& range : ranges) {
    uint64_t& size_bytes = longest[range.address];
    size_bytes = std::max(size_bytes, range.size_bytes);
  }
  // Where buffers overlap (views of one allocation), each start answers for all that begin at or before it.
  uint64_t reach = 0;
  for (auto& [address, size_bytes] : longest) {
    reach = std::max(reach, address + size_bytes);
    size_bytes = reach - address;
  }
  auto shared = std::make_shared<const std::vector<Allocation>>(std::move(allocations));
  std::lock_guard lock(mu_);
  longest_ = std::move(longest);
  allocations_ = std::move(shared);
}

BufferTable::Allocations BufferTable::allocations() const {
  std::lock_guard lock(mu_);
  return allocations_;
}

bool BufferTable::Contains(uint64_t address, uint64_t size_bytes) const {
  std::lock_guard lock(mu_);
  auto next = longest_.upper_bound(address);
  if (next == longest_.begin()) return false;
  const auto& [start, length] = *std::prev(next);
  const uint64_t offset_bytes = address - start;
  return offset_bytes <= length && size_bytes <= length - offset_bytes;
}

}  // namespace keepstep::client
