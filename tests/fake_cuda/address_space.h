// Device addresses: a range of this process that nothing is mapped in, so that no host pointer is ever
// inside, and dereferencing a device address on the host ends in SIGSEGV.
//
// An address that was given back is the first to be handed out again, to whatever fits: a caching driver does
// so too, and whoever recognises memory by its address is found out.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_ADDRESS_SPACE_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_ADDRESS_SPACE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace keepstep::fake_cuda {

// All addresses and sizes are whole granules.
inline constexpr size_t kGranularity = size_t{2} << 20;

inline size_t WholeGranules(size_t bytes) { return (bytes + kGranularity - 1) / kGranularity * kGranularity; }

// Not thread-safe.
class AddressSpace {
 public:
  // Reserves the range; false when the system refuses.
  bool Reserve();

  bool Contains(uint64_t address) const { return address >= begin_ && address < end_; }

  // `bytes` of addresses, a multiple of `alignment` (a power of two), 0 when there are none left.
  uint64_t Take(size_t bytes, size_t alignment = kGranularity);

  // What Take gave, with the same size.
  void Give(uint64_t address, size_t bytes);

 private:
  struct Hole {
    uint64_t address;
    size_t bytes;
  };

  uint64_t begin_ = 0;
  uint64_t next_ = 0;
  uint64_t end_ = 0;
  std::vector<Hole> holes_;  // the newest last
};

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_ADDRESS_SPACE_H_
