#include "client/buffer_table.h"

#include <algorithm>

namespace keepstep::client {

void BufferTable::Replace(const std::vector<MemoryRange>& ranges) {
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
  std::lock_guard lock(mu_);
  longest_ = std::move(longest);
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
