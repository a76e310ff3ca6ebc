// Device memory, registered host memory, and copies.

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <thread>
#include <vector>

#include "tests/fake_cuda/driver_library.h"

namespace keepstep::fake_cuda {
namespace {

std::vector<unsigned char> Pattern(size_t size_bytes, unsigned char first) {
  std::vector<unsigned char> bytes(size_bytes);
  std::iota(bytes.begin(), bytes.end(), first);
  return bytes;
}

class MemoryTest : public DriverTest {
 protected:
  CUdeviceptr Allocate(size_t size_bytes) {
    CUdeviceptr pointer = 0;
    EXPECT_CUDA(CU(cuMemAlloc)(&pointer, size_bytes));
    return pointer;
  }

  std::vector<unsigned char> Read(CUdeviceptr pointer, size_t size_bytes) {
    std::vector<unsigned char> bytes(size_bytes);
    EXPECT_CUDA(CU(cuMemcpyDtoH)(bytes.data(), pointer, size_bytes));
    return bytes;
  }
};

TEST_F(MemoryTest, TheHostCannotReadDeviceAddresses) {
  const CUdeviceptr pointer = Allocate(4096);
  char byte = 0;
  iovec here{&byte, 1}, there{reinterpret_cast<void*>(pointer), 1};
  EXPECT_EQ(process_vm_readv(getpid(), &here, 1, &there, 1, 0), -1);
  EXPECT_EQ(errno, EFAULT);
  EXPECT_CUDA(CU(cuMemFree)(pointer));
}

TEST_F(MemoryTest, CopiesGoBothWaysAndAcross) {
  const auto bytes = Pattern(3 << 20, 7);
  const CUdeviceptr a = Allocate(bytes.size()), b = Allocate(bytes.size() + 100);
  ASSERT_CUDA(CU(cuMemcpyHtoD)(a, bytes.data(), bytes.size()));
  ASSERT_CUDA(CU(cuMemcpyDtoD)(b + 100, a, bytes.size()));
  EXPECT_EQ(Read(b + 100, bytes.size()), bytes);
  ASSERT_CUDA(CU(cuMemcpy)(b, reinterpret_cast<CUdeviceptr>(bytes.data() + 5), 50));
  EXPECT_EQ(Read(b, 50), std::vector(bytes.begin() + 5, bytes.begin() + 55));
  ASSERT_CUDA(CU(cuMemsetD8)(a + 1, 0xAB, 3));
  const unsigned char first[] = {bytes[0], 0xAB, 0xAB, 0xAB, bytes[4]};
  EXPECT_EQ(Read(a, 5), std::vector(std::begin(first), std::end(first)));
  EXPECT_CUDA(CU(cuMemFree)(a));
  EXPECT_CUDA(CU(cuMemFree)(b));
}

TEST_F(MemoryTest, RowsAreCopiedByTheirPitches) {
  const auto bytes = Pattern(10 * 16, 0);
  const CUdeviceptr pointer = Allocate(10 * 32);
  ASSERT_CUDA(CU(cuMemsetD8)(pointer, 0xEE, 10 * 32));
  CUDA_MEMCPY2D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcHost = bytes.data();
  copy.srcPitch = 16;
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = pointer;
  copy.dstPitch = 32;
  copy.dstXInBytes = 4;
  copy.WidthInBytes = 16;
  copy.Height = 10;
  ASSERT_CUDA(CU(cuMemcpy2D)(&copy));
  const auto found = Read(pointer, 10 * 32);
  for (size_t i = 0; i < found.size(); ++i) {
    const size_t column = i % 32;
    const bool inside = column >= 4 && column < 20;
    ASSERT_EQ(found[i], inside ? bytes[i / 32 * 16 + column - 4] : 0xEE) << "at " << i;
  }
  EXPECT_CUDA(CU(cuMemFree)(pointer));
}

TEST_F(MemoryTest, ACopyBeyondTheAllocationIsRefused) {
  SKIP_UNLESS_FAKE("small allocations share pages there, so that not every overrun is seen");
  const CUdeviceptr pointer = Allocate(4096);
  std::vector<char> bytes(8192);
  EXPECT_EQ(CU(cuMemcpyDtoH)(bytes.data(), pointer + 1, 4096), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(CU(cuMemcpyDtoH)(bytes.data(), pointer, 8192), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CUDA(CU(cuMemFree)(pointer));
  EXPECT_EQ(CU(cuMemcpyDtoH)(bytes.data(), pointer, 1), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(MemoryTest, AnAllocationIsFoundFromInside) {
  const CUdeviceptr pointer = Allocate(100'000);
  CUdeviceptr base = 0;
  size_t size_bytes = 0;
  ASSERT_CUDA(CU(cuMemGetAddressRange)(&base, &size_bytes, pointer + 99'999));
  EXPECT_EQ(base, pointer);
  EXPECT_EQ(size_bytes, 100'000u);
  unsigned type = 0;
  int ordinal = -1, legacy = 0;
  ASSERT_CUDA(CU(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer + 5));
  EXPECT_EQ(type, static_cast<unsigned>(CU_MEMORYTYPE_DEVICE));
  ASSERT_CUDA(CU(cuPointerGetAttribute)(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer));
  EXPECT_EQ(ordinal, 0);
  ASSERT_CUDA(CU(cuPointerGetAttribute)(&legacy, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, pointer));
  EXPECT_EQ(legacy, 1);
  EXPECT_CUDA(CU(cuMemFree)(pointer));
}

TEST_F(MemoryTest, HostMemoryThatIsNotRegisteredIsUnknown) {
  int local = 0;
  unsigned type = 0;
  const auto address = reinterpret_cast<CUdeviceptr>(&local);
  EXPECT_EQ(CU(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address),
            CUDA_ERROR_INVALID_VALUE);
  CUdeviceptr start = 1;
  CUpointer_attribute attributes[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                      CU_POINTER_ATTRIBUTE_RANGE_START_ADDR};
  void* into[] = {&type, &start};
  EXPECT_CUDA(CU(cuPointerGetAttributes)(2, attributes, into, address));
  EXPECT_EQ(start, 0u);
}

TEST_F(MemoryTest, FreeingWhatIsNoAllocationIsRefused) {
  SKIP_UNLESS_FAKE("undefined there");
  const CUdeviceptr pointer = Allocate(4096);
  EXPECT_EQ(CU(cuMemFree)(pointer + 16), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CUDA(CU(cuMemFree)(pointer));
  EXPECT_EQ(CU(cuMemFree)(pointer), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CUDA(CU(cuMemFree)(0));
}

// Whoever recognises memory by its address must be found out.
TEST_F(MemoryTest, AFreedAddressIsTheNextOneHandedOut) {
  SKIP_UNLESS_FAKE("its driver chooses addresses as it likes");
  const CUdeviceptr first = Allocate(8 << 20), second = Allocate(8 << 20);
  unsigned long long old_id = 0, new_id = 0;
  ASSERT_CUDA(CU(cuPointerGetAttribute)(&old_id, CU_POINTER_ATTRIBUTE_BUFFER_ID, first));
  ASSERT_CUDA(CU(cuMemFree)(second));
  ASSERT_CUDA(CU(cuMemFree)(first));
  EXPECT_EQ(Allocate(4096), first);
  EXPECT_EQ(Allocate(8 << 20), second);
  ASSERT_CUDA(CU(cuPointerGetAttribute)(&new_id, CU_POINTER_ATTRIBUTE_BUFFER_ID, first));
  EXPECT_NE(old_id, new_id);
  EXPECT_CUDA(CU(cuMemFree)(first));
  EXPECT_CUDA(CU(cuMemFree)(second));
}

TEST_F(MemoryTest, MoreThanThereIsIsRefusedAndFreeMemoryIsTold) {
  size_t before = 0, during = 0, total = 0;
  CUdeviceptr pointer = 0;
  ASSERT_CUDA(CU(cuMemGetInfo)(&before, &total));
  EXPECT_EQ(CU(cuMemAlloc)(&pointer, size_t{1} << 50), CUDA_ERROR_OUT_OF_MEMORY);
  pointer = Allocate(64 << 20);
  ASSERT_CUDA(CU(cuMemGetInfo)(&during, &total));
  EXPECT_GE(before - during, size_t{64} << 20);
  EXPECT_CUDA(CU(cuMemFree)(pointer));
}

// Small allocations by the thousand: more than a process may have descriptors.
TEST_F(MemoryTest, ThousandsOfAllocationsAreKeptApart) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit usual{std::min<rlim_t>(1024, before.rlim_max), before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &usual), 0);
  std::vector<CUdeviceptr> pointers;
  for (uint32_t i = 0; i < 5000; ++i) {
    pointers.push_back(Allocate(4096));
    ASSERT_NE(pointers.back(), 0u);
    ASSERT_CUDA(CU(cuMemsetD32Async)(pointers.back(), i, 1024, nullptr));
  }
  for (uint32_t i = 0; i < 5000; ++i) {
    uint32_t last = 0;
    ASSERT_CUDA(CU(cuMemcpyDtoH)(&last, pointers[i] + 4092, 4));
    ASSERT_EQ(last, i);
  }
  for (CUdeviceptr pointer : pointers) EXPECT_CUDA(CU(cuMemFree)(pointer));
  EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST_F(MemoryTest, ThreadsWorkAtOnce) {
  std::vector<std::thread> threads;
  for (uint32_t thread = 1; thread <= 4; ++thread) {
    threads.emplace_back([this, thread] {
      EXPECT_CUDA(CU(cuCtxSetCurrent)(context_));
      CUstream stream = nullptr;
      EXPECT_CUDA(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
      for (uint32_t round = 0; round < 50; ++round) {
        const CUdeviceptr a = Allocate(64 << 10), b = Allocate(64 << 10);
        uint32_t last = 0;
        EXPECT_CUDA(CU(cuMemsetD32Async)(a, thread << 16 | round, 16 << 10, stream));
        EXPECT_CUDA(CU(cuMemcpyDtoDAsync)(b, a, 64 << 10, stream));
        EXPECT_CUDA(CU(cuMemcpyDtoHAsync)(&last, b + (64 << 10) - 4, 4, stream));
        EXPECT_EQ(last, thread << 16 | round);
        EXPECT_CUDA(CU(cuMemFree)(a));
        EXPECT_CUDA(CU(cuMemFree)(b));
      }
      EXPECT_CUDA(CU(cuStreamDestroy)(stream));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(MemoryTest, HostMemoryIsRegisteredOnce) {
  void* memory = mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  EXPECT_EQ(CU(cuMemHostUnregister)(memory), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  ASSERT_CUDA(CU(cuMemHostRegister)(memory, 1 << 20, CU_MEMHOSTREGISTER_PORTABLE));
  EXPECT_EQ(CU(cuMemHostRegister)(memory, 1 << 20, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  CUdeviceptr pointer = 0;
  ASSERT_CUDA(CU(cuMemHostGetDevicePointer)(&pointer, memory, 0));
  EXPECT_EQ(pointer, reinterpret_cast<CUdeviceptr>(memory));
  ASSERT_CUDA(CU(cuMemHostUnregister)(memory));
  EXPECT_EQ(CU(cuMemHostUnregister)(memory), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  // 712 and 713 are between sticky ones, and are not sticky.
  EXPECT_CUDA(CU(cuCtxSynchronize)());
  munmap(memory, 1 << 20);
}

TEST_F(MemoryTest, UnmappedHostMemoryIsNotRegistered) {
  void* memory = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(static_cast<char*>(memory) + 4096, 4096);
  EXPECT_NE(CU(cuMemHostRegister)(memory, 8192, 0), CUDA_SUCCESS);
  munmap(memory, 4096);
}

TEST_F(MemoryTest, TheDriverAllocatesHostMemory) {
  void* memory = nullptr;
  ASSERT_CUDA(CU(cuMemAllocHost)(&memory, 10'000));
  static_cast<char*>(memory)[9'999] = 'x';
  unsigned type = 0;
  ASSERT_CUDA(CU(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                        reinterpret_cast<CUdeviceptr>(memory) + 9'999));
  EXPECT_EQ(type, static_cast<unsigned>(CU_MEMORYTYPE_HOST));
  EXPECT_CUDA(CU(cuMemFreeHost)(memory));
}

TEST_F(MemoryTest, PoolMemoryHasNoHandles) {
  if (!Attribute(CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED))
    GTEST_SKIP() << "the driver has no memory pools";
  CUdeviceptr pointer = 0;
  ASSERT_CUDA(CU(cuMemAllocAsync)(&pointer, 4096, nullptr));
  ASSERT_CUDA(CU(cuMemsetD8Async)(pointer, 5, 4096, nullptr));
  EXPECT_EQ(Read(pointer, 1).front(), 5);
  int legacy = 1;
  ASSERT_CUDA(CU(cuPointerGetAttribute)(&legacy, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, pointer));
  EXPECT_EQ(legacy, 0);
  CUipcMemHandle handle;
  EXPECT_EQ(CU(cuIpcGetMemHandle)(&handle, pointer), CUDA_ERROR_INVALID_VALUE);
  CUmemGenericAllocationHandle allocation = 0;
  EXPECT_NE(CU(cuMemRetainAllocationHandle)(&allocation, reinterpret_cast<void*>(pointer)), CUDA_SUCCESS);
  ASSERT_CUDA(CU(cuMemFreeAsync)(pointer, nullptr));
  ASSERT_CUDA(CU(cuCtxSynchronize)());
}

}  // namespace
}  // namespace keepstep::fake_cuda
