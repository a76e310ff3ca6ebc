// Memory that O_DIRECT takes, for what a caller's memory cannot be used for.

#ifndef KEEPSTEP_STORAGE_ALIGNED_BUFFER_H_
#define KEEPSTEP_STORAGE_ALIGNED_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "storage/blob_store.h"

namespace keepstep::storage {

struct AlignedDelete {
  void operator()(std::byte* bytes) const { ::operator delete[](bytes, std::align_val_t(kDirectAlignment)); }
};

using AlignedBuffer = std::unique_ptr<std::byte[], AlignedDelete>;

inline AlignedBuffer MakeAlignedBuffer(size_t size_bytes) {
  return AlignedBuffer(new (std::align_val_t(kDirectAlignment)) std::byte[size_bytes]);
}

inline bool IsAligned(int64_t number) { return number % kDirectAlignment == 0; }
inline bool IsAligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(kDirectAlignment) == 0;
}
inline int64_t AlignUp(int64_t number) {
  return (number + kDirectAlignment - 1) / kDirectAlignment * kDirectAlignment;
}

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_ALIGNED_BUFFER_H_
