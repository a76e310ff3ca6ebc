#include "tests/fake_cuda/memory_map.h"

#include <algorithm>

namespace keepstep::fake_cuda {
namespace {

// The last entry that begins at or before `address`, or end.
template <typename Map>
auto AtOrBefore(Map& map, uint64_t address) {
  auto found = map.upper_bound(address);
  return found == map.begin() ? map.end() : std::prev(found);
}

bool Allows(const Range& range, Access access) {
  return access == Access::kMapped || (access == Access::kRead ? range.readable : range.writable);
}

}  // namespace

CUdeviceptr MemoryMap::Place(Range range) {
  std::lock_guard lock(mutex_);
  range.base = addresses_.Take(range.size_bytes);
  range.id = ++last_id_;
  if (range.base != 0) ranges_[range.base] = range;
  return range.base;
}

std::optional<Range> MemoryMap::Remove(CUdeviceptr base, const std::function<bool(const Range&)>& wanted) {
  std::lock_guard lock(mutex_);
  auto found = ranges_.find(base);
  if (found == ranges_.end() || found->second.kind == Range::Kind::kVirtual || !wanted(found->second)) {
    return std::nullopt;
  }
  Range range = found->second;
  ranges_.erase(found);
  addresses_.Give(range.base, range.size_bytes);
  return range;
}

MemoryMap::Ranges::const_iterator MemoryMap::At(CUdeviceptr address) const {
  auto found = AtOrBefore(ranges_, address);
  return found != ranges_.end() && address - found->first < found->second.size_bytes ? found : ranges_.end();
}

std::optional<Range> MemoryMap::Find(CUdeviceptr address) const {
  std::lock_guard lock(mutex_);
  auto found = At(address);
  if (found == ranges_.end()) return std::nullopt;
  return found->second;
}

void MemoryMap::Change(const std::function<bool(Range&)>& change) {
  std::lock_guard lock(mutex_);
  for (auto& [base, range] : ranges_) {
    if (change(range)) return;
  }
}

CUresult MemoryMap::Resolve(uint64_t address, size_t size_bytes, Access access,
                            std::vector<Piece>& into) const {
  if (!IsDevice(address)) {
    into.push_back({reinterpret_cast<char*>(address), size_bytes, nullptr});
    return CUDA_SUCCESS;
  }
  std::lock_guard lock(mutex_);
  bool first = true;
  while (size_bytes > 0) {
    auto found = At(address);
    if (found == ranges_.end()) return CUDA_ERROR_INVALID_VALUE;
    const Range& range = found->second;
    // Mappings side by side are one to the hardware; two allocations are not, whatever their addresses.
    if (!first && range.kind != Range::Kind::kVirtual) return CUDA_ERROR_INVALID_VALUE;
    if (!Allows(range, access)) return CUDA_ERROR_ILLEGAL_ADDRESS;
    const size_t offset = address - range.base;
    const size_t bytes = std::min(size_bytes, range.size_bytes - offset);
    into.push_back({range.physical->data() + offset, bytes, range.physical});
    address += bytes;
    size_bytes -= bytes;
    first = false;
  }
  return CUDA_SUCCESS;
}

CUdeviceptr MemoryMap::ReserveAddresses(size_t size_bytes, size_t alignment) {
  std::lock_guard lock(mutex_);
  const CUdeviceptr base = addresses_.Take(size_bytes, alignment);
  if (base != 0) reservations_[base] = size_bytes;
  return base;
}

bool MemoryMap::FreeAddresses(CUdeviceptr base, size_t size_bytes) {
  std::lock_guard lock(mutex_);
  auto found = reservations_.find(base);
  if (found == reservations_.end() || found->second != size_bytes) return false;
  auto mapped = ranges_.lower_bound(base);
  if (mapped != ranges_.end() && mapped->first < base + size_bytes) return false;
  reservations_.erase(found);
  addresses_.Give(base, size_bytes);
  return true;
}

bool MemoryMap::MapReserved(Range range) {
  std::lock_guard lock(mutex_);
  auto reservation = AtOrBefore(reservations_, range.base);
  if (reservation == reservations_.end()) return false;
  if (range.base + range.size_bytes > reservation->first + reservation->second) return false;
  auto next = ranges_.lower_bound(range.base);
  if (next != ranges_.end() && next->first < range.base + range.size_bytes) return false;
  if (At(range.base) != ranges_.end()) return false;
  range.id = ++last_id_;
  ranges_[range.base] = range;
  return true;
}

std::vector<Range> MemoryMap::UnmapReserved(CUdeviceptr base, size_t size_bytes) {
  std::lock_guard lock(mutex_);
  std::vector<Range> removed;
  size_t covered = 0;
  for (auto found = ranges_.find(base); found != ranges_.end() && covered < size_bytes; ++found) {
    if (found->first != base + covered || found->second.kind != Range::Kind::kVirtual) return {};
    covered += found->second.size_bytes;
    removed.push_back(found->second);
  }
  if (covered != size_bytes) return {};
  for (const Range& range : removed) ranges_.erase(range.base);
  return removed;
}

CUresult MemoryMap::RegisterHost(uint64_t base, size_t size_bytes, bool allocated) {
  std::lock_guard lock(mutex_);
  auto before = AtOrBefore(host_, base);
  auto next = host_.lower_bound(base);
  if ((before != host_.end() && before->first + before->second.size_bytes > base) ||
      (next != host_.end() && next->first < base + size_bytes)) {
    return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  }
  host_[base] = {base, size_bytes, ++last_id_, allocated};
  return CUDA_SUCCESS;
}

std::optional<HostRange> MemoryMap::UnregisterHost(uint64_t base, bool allocated) {
  std::lock_guard lock(mutex_);
  auto found = host_.find(base);
  if (found == host_.end() || found->second.allocated != allocated) return std::nullopt;
  HostRange range = found->second;
  host_.erase(found);
  return range;
}

std::optional<HostRange> MemoryMap::FindHost(uint64_t address) const {
  std::lock_guard lock(mutex_);
  auto found = AtOrBefore(host_, address);
  if (found == host_.end() || address - found->first >= found->second.size_bytes) return std::nullopt;
  return found->second;
}

}  // namespace keepstep::fake_cuda
