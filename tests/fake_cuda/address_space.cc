#include "tests/fake_cuda/address_space.h"

#include <sys/mman.h>

#include <algorithm>

namespace keepstep::fake_cuda {
namespace {

constexpr size_t kReservedBytes = size_t{512} << 30;

uint64_t AlignUp(uint64_t address, size_t alignment) {
  return (address + alignment - 1) / alignment * alignment;
}

}  // namespace

bool AddressSpace::Reserve() {
  void* memory = mmap(nullptr, kReservedBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  end_ = reinterpret_cast<uint64_t>(memory) + kReservedBytes;
  begin_ = next_ = AlignUp(reinterpret_cast<uint64_t>(memory), kGranularity);
  return true;
}

uint64_t AddressSpace::Take(size_t bytes, size_t alignment) {
  bytes = WholeGranules(bytes);
  alignment = std::max(alignment, kGranularity);
  for (auto hole = holes_.rbegin(); hole != holes_.rend(); ++hole) {
    if (hole->bytes < bytes || hole->address % alignment != 0) continue;
    const uint64_t address = hole->address;
    hole->address += bytes;
    hole->bytes -= bytes;
    if (hole->bytes == 0) holes_.erase(std::next(hole).base());
    return address;
  }
  const uint64_t address = AlignUp(next_, alignment);
  if (bytes > end_ - std::min(address, end_)) return 0;
  next_ = address + bytes;
  return address;
}

void AddressSpace::Give(uint64_t address, size_t bytes) { holes_.push_back({address, WholeGranules(bytes)}); }

}  // namespace keepstep::fake_cuda
