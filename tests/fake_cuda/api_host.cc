// Host memory that the driver knows: registered, or allocated by it.

#include <sys/mman.h>

#include "tests/fake_cuda/driver.h"

using namespace keepstep::fake_cuda;

namespace {

constexpr uint64_t kPage = 4096;

bool IsMapped(uint64_t address, size_t size_bytes) {
  const uint64_t begin = address / kPage * kPage;
  return msync(reinterpret_cast<void*>(begin), address + size_bytes - begin, MS_ASYNC) == 0;
}

// Who pins pages has to have them.
void PresentNow(uint64_t address, size_t size_bytes) {
  constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE: older headers and kernels lack it
  const uint64_t begin = address / kPage * kPage;
  (void)madvise(reinterpret_cast<void*>(begin), address + size_bytes - begin, kPopulateWrite);
}

void Count(int64_t bytes) { Driver::Get().counters().Add(kRegisteredBytes, bytes); }

}  // namespace

CUresult CUDAAPI cuMemHostRegister(void* pointer, size_t size_bytes, unsigned int flags) {
  return InContext("cuMemHostRegister", [&](Context& context) -> CUresult {
    const auto address = reinterpret_cast<uint64_t>(pointer);
    MemoryMap& memory = Driver::Get().memory();
    if (!pointer || size_bytes == 0 || memory.IsDevice(address)) return CUDA_ERROR_INVALID_VALUE;
    constexpr unsigned kFlags = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP;
    if ((flags & CU_MEMHOSTREGISTER_READ_ONLY) != 0) return CUDA_ERROR_NOT_SUPPORTED;
    if ((flags & ~kFlags) != 0 || !IsMapped(address, size_bytes)) return CUDA_ERROR_INVALID_VALUE;
    const CUresult registered = memory.RegisterHost(address, size_bytes, false);
    if (registered == CUDA_SUCCESS) PresentNow(address, size_bytes);
    if (registered == CUDA_SUCCESS) Count(static_cast<int64_t>(size_bytes));
    return registered;
  });
}

CUresult CUDAAPI cuMemHostUnregister(void* pointer) {
  return InContext("cuMemHostUnregister", [&](Context& context) -> CUresult {
    const std::optional<HostRange> range =
        Driver::Get().memory().UnregisterHost(reinterpret_cast<uint64_t>(pointer), false);
    if (!range) return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    Count(-static_cast<int64_t>(range->size_bytes));
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr* device_pointer, void* pointer, unsigned int flags) {
  return InContext("cuMemHostGetDevicePointer", [&](Context& context) -> CUresult {
    const auto address = reinterpret_cast<uint64_t>(pointer);
    if (!device_pointer || flags != 0 || !Driver::Get().memory().FindHost(address)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    *device_pointer = address;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemHostAlloc(void** pointer, size_t size_bytes, unsigned int flags) {
  return InContext("cuMemHostAlloc", [&](Context& context) -> CUresult {
    if (!pointer || size_bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    void* memory = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    const CUresult registered =
        Driver::Get().memory().RegisterHost(reinterpret_cast<uint64_t>(memory), size_bytes, true);
    if (registered == CUDA_SUCCESS) Count(static_cast<int64_t>(size_bytes));
    *pointer = memory;
    return registered;
  });
}

CUresult CUDAAPI cuMemAllocHost(void** pointer, size_t size_bytes) {
  return InContext("cuMemAllocHost",
                   [&](Context& context) { return cuMemHostAlloc(pointer, size_bytes, 0); });
}

CUresult CUDAAPI cuMemFreeHost(void* pointer) {
  return InContext("cuMemFreeHost", [&](Context& context) -> CUresult {
    context.Synchronize();
    const std::optional<HostRange> range =
        Driver::Get().memory().UnregisterHost(reinterpret_cast<uint64_t>(pointer), true);
    if (!range) return CUDA_ERROR_INVALID_VALUE;
    munmap(pointer, range->size_bytes);
    Count(-static_cast<int64_t>(range->size_bytes));
    return CUDA_SUCCESS;
  });
}
