// GPU memory for tests of the client, by the driver that the loader finds (tests/fake_cuda).

#ifndef KEEPSTEP_CLIENT_DEVICE_TEST_MEMORY_H_
#define KEEPSTEP_CLIENT_DEVICE_TEST_MEMORY_H_

#include <dirent.h>
#include <sys/resource.h>

#include <vector>

#include "tests/fake_cuda/driver_library.h"

namespace keepstep::client {

// One cuMemAlloc, freed at the end.
class Block {
 public:
  explicit Block(size_t size_bytes) : size_bytes_(size_bytes) {
    EXPECT_CUDA(CU(cuMemAlloc)(&pointer_, size_bytes));
  }
  ~Block() { EXPECT_CUDA(CU(cuMemFree)(pointer_)); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  CUdeviceptr pointer() const { return pointer_; }
  size_t size_bytes() const { return size_bytes_; }

 private:
  CUdeviceptr pointer_ = 0;
  size_t size_bytes_;
};

// An expandable segment: pieces that follow each other.
class Pieces {
 public:
  Pieces(int count, bool exportable = true) {
    properties_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties_.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    if (exportable) properties_.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    EXPECT_CUDA(
        CU(cuMemGetAllocationGranularity)(&piece_bytes_, &properties_, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    EXPECT_CUDA(CU(cuMemAddressReserve)(&pointer_, count * piece_bytes_, 0, 0, 0));
    for (; count_ < count; ++count_) Map(count_);
  }
  ~Pieces() {
    EXPECT_CUDA(CU(cuMemUnmap)(pointer_, count_ * piece_bytes_));
    EXPECT_CUDA(CU(cuMemAddressFree)(pointer_, count_ * piece_bytes_));
  }
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;

  // Other memory behind the same addresses.
  void Replace(int index) {
    EXPECT_CUDA(CU(cuMemUnmap)(pointer_ + index * piece_bytes_, piece_bytes_));
    Map(index);
  }

  CUdeviceptr pointer() const { return pointer_; }
  size_t piece_bytes() const { return piece_bytes_; }
  size_t size_bytes() const { return count_ * piece_bytes_; }

 private:
  void Map(int index) {
    CUmemGenericAllocationHandle handle = 0;
    CUmemAccessDesc access{.location = properties_.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    const CUdeviceptr at = pointer_ + index * piece_bytes_;
    EXPECT_CUDA(CU(cuMemCreate)(&handle, piece_bytes_, &properties_, 0));
    EXPECT_CUDA(CU(cuMemMap)(at, piece_bytes_, 0, handle, 0));
    EXPECT_CUDA(CU(cuMemSetAccess)(at, piece_bytes_, &access, 1));
    EXPECT_CUDA(CU(cuMemRelease)(handle));
  }

  CUmemAllocationProp properties_{};
  size_t piece_bytes_ = 0;
  CUdeviceptr pointer_ = 0;
  int count_ = 0;
};

// Work on a stream that is not done before a test says so.
class HeldStream {
 public:
  HeldStream() {
    EXPECT_CUDA(CU(cuStreamCreate)(&stream_, CU_STREAM_NON_BLOCKING));
    EXPECT_CUDA(CU(cuMemAllocHost)(reinterpret_cast<void**>(&word_), sizeof(*word_)));
    *word_ = 0;
    EXPECT_CUDA(
        CU(cuStreamWaitValue32)(stream_, reinterpret_cast<CUdeviceptr>(word_), 1, CU_STREAM_WAIT_VALUE_GEQ));
  }
  ~HeldStream() {
    Release();
    EXPECT_CUDA(CU(cuStreamSynchronize)(stream_));
    EXPECT_CUDA(CU(cuStreamDestroy)(stream_));
    EXPECT_CUDA(CU(cuMemFreeHost)(word_));
  }
  HeldStream(const HeldStream&) = delete;
  HeldStream& operator=(const HeldStream&) = delete;

  void Release() { __atomic_store_n(word_, 1, __ATOMIC_RELEASE); }
  CUstream stream() const { return stream_; }

 private:
  CUstream stream_ = nullptr;
  uint32_t* word_ = nullptr;
};

// Of this process.
inline int OpenDescriptors() {
  int count = 0;
  DIR* const folder = opendir("/proc/self/fd");
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

// What a process that keeps `count` descriptors of a fake GPU's memory needs; the limit as it was comes back
// at the end.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t count) {
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
    rlimit wanted = before_;
    wanted.rlim_cur = count;
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &wanted), 0) << "the hard limit is " << before_.rlim_max;
  }
  ~DescriptorLimit() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_TEST_MEMORY_H_
