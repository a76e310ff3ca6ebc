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
  // Buffers that overlap or touch (views of one allocation) are one run: the daemon reads through from one to
  // the next.
  std::map<uint64_t, uint64_t> runs;
  for (const auto& [address, size_bytes] : longest) {
    if (runs.empty() || address > runs.rbegin()->first + runs.rbegin()->second) {
      runs.emplace_hint(runs.end(), address, size_bytes);
    } else {
      auto& [begin, length] = *runs.rbegin();
      length = std::max(length, address + size_bytes - begin);
    }
  }
  auto shared = std::make_shared<const std::vector<Allocation>>(std::move(allocations));
  std::lock_guard lock(mu_);
  runs_ = std::move(runs);
  allocations_ = std::move(shared);
}

BufferTable::Allocations BufferTable::allocations() const {
  std::lock_guard lock(mu_);
  return allocations_;
}

bool BufferTable::Contains(uint64_t address, uint64_t size_bytes) const {
  std::lock_guard lock(mu_);
  auto next = runs_.upper_bound(address);
  if (next == runs_.begin()) return false;
  const auto& [start, length] = *std::prev(next);
  const uint64_t offset_bytes = address - start;
  return offset_bytes <= length && size_bytes <= length - offset_bytes;
}

}  // namespace keepstep::client
