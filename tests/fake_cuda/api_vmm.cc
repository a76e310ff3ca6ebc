// Virtual memory management: addresses, memory and access apart, and memory as descriptors.
//
// The memory lives until all its mappings and handles, in all processes, are gone: a descriptor of its memfd
// is one.

#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "tests/fake_cuda/driver.h"

using namespace keepstep::fake_cuda;

namespace {

bool IsWhole(size_t bytes) { return bytes != 0 && bytes % kGranularity == 0; }

// As InContext, where this driver has VMM.
template <typename Function>
CUresult WithVmm(const char* call, Function&& function) {
  return InContext(call, [&](Context& context) -> CUresult {
    return Driver::Get().options().vmm ? function(context) : CUDA_ERROR_NOT_SUPPORTED;
  });
}

bool SupportedProperties(const CUmemAllocationProp* properties) {
  return properties && properties->type == CU_MEM_ALLOCATION_TYPE_PINNED &&
         properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE &&
         Driver::Get().ContextOf(properties->location.id) != nullptr;
}

}  // namespace

CUresult CUDAAPI cuMemGetAllocationGranularity(size_t* granularity, const CUmemAllocationProp* properties,
                                               CUmemAllocationGranularity_flags option) {
  return WithVmm("cuMemGetAllocationGranularity", [&](Context& context) -> CUresult {
    if (!granularity || !SupportedProperties(properties)) return CUDA_ERROR_INVALID_VALUE;
    *granularity = kGranularity;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemAddressReserve(CUdeviceptr* pointer, size_t size_bytes, size_t alignment, CUdeviceptr,
                                     unsigned long long flags) {
  return WithVmm("cuMemAddressReserve", [&](Context& context) -> CUresult {
    const bool aligned = (alignment & (alignment - 1)) == 0;
    if (!pointer || !IsWhole(size_bytes) || !aligned || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    *pointer = Driver::Get().memory().ReserveAddresses(size_bytes, alignment);
    if (*pointer == 0) return CUDA_ERROR_OUT_OF_MEMORY;
    Driver::Get().counters().Add(kReservedBytes, static_cast<int64_t>(size_bytes));
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemAddressFree(CUdeviceptr pointer, size_t size_bytes) {
  return WithVmm("cuMemAddressFree", [&](Context& context) -> CUresult {
    if (!Driver::Get().memory().FreeAddresses(pointer, size_bytes)) return CUDA_ERROR_INVALID_VALUE;
    Driver::Get().counters().Add(kReservedBytes, -static_cast<int64_t>(size_bytes));
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemCreate(CUmemGenericAllocationHandle* handle, size_t size_bytes,
                             const CUmemAllocationProp* properties, unsigned long long flags) {
  return WithVmm("cuMemCreate", [&](Context& context) -> CUresult {
    Driver& driver = Driver::Get();
    if (!handle || flags != 0 || !SupportedProperties(properties) || !IsWhole(size_bytes)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const auto types = static_cast<uint32_t>(properties->requestedHandleTypes);
    const uint32_t possible = driver.options().posix_fd ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : 0;
    if ((types & ~possible) != 0) return CUDA_ERROR_NOT_SUPPORTED;
    std::shared_ptr<Physical> physical =
        driver.Allocate(*driver.ContextOf(properties->location.id), Use::kVmm, size_bytes, types);
    if (!physical) return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = driver.ReferVmm(std::move(physical));
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemRelease(CUmemGenericAllocationHandle handle) {
  return WithVmm("cuMemRelease", [&](Context& context) -> CUresult {
    return Driver::Get().ReleaseVmm(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult CUDAAPI cuMemMap(CUdeviceptr pointer, size_t size_bytes, size_t offset,
                          CUmemGenericAllocationHandle handle, unsigned long long flags) {
  return WithVmm("cuMemMap", [&](Context& context) -> CUresult {
    Driver& driver = Driver::Get();
    std::shared_ptr<Physical> physical = driver.FindVmm(handle);
    if (!physical || offset != 0 || flags != 0 || !IsWhole(size_bytes) || pointer % kGranularity != 0 ||
        size_bytes > physical->size_bytes()) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const int ordinal = driver.Ordinal(physical->label().device);
    if (!driver.memory().MapReserved({.base = pointer,
                                      .size_bytes = size_bytes,
                                      .kind = Range::Kind::kVirtual,
                                      .device = ordinal,
                                      .physical = std::move(physical),
                                      .readable = false,
                                      .writable = false})) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    driver.counters().Add(kVmmMappings, 1);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemUnmap(CUdeviceptr pointer, size_t size_bytes) {
  return WithVmm("cuMemUnmap", [&](Context& context) -> CUresult {
    const std::vector<Range> removed = Driver::Get().memory().UnmapReserved(pointer, size_bytes);
    if (removed.empty()) return CUDA_ERROR_INVALID_VALUE;
    Driver::Get().counters().Add(kVmmMappings, -static_cast<int64_t>(removed.size()));
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemSetAccess(CUdeviceptr pointer, size_t size_bytes, const CUmemAccessDesc* descriptions,
                                size_t count) {
  return WithVmm("cuMemSetAccess", [&](Context& context) -> CUresult {
    MemoryMap& memory = Driver::Get().memory();
    std::vector<Piece> mapped;
    if (!descriptions || count == 0 || !memory.IsDevice(pointer) ||
        memory.Resolve(pointer, size_bytes, Access::kMapped, mapped) != CUDA_SUCCESS) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    memory.Change([&](Range& range) {
      const bool inside = range.base >= pointer && range.base + range.size_bytes <= pointer + size_bytes;
      for (size_t i = 0; i < count && inside && range.kind == Range::Kind::kVirtual; ++i) {
        if (descriptions[i].location.id != range.device) continue;  // other GPUs' access is not kept
        range.readable = descriptions[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE;
        range.writable = descriptions[i].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
      }
      return false;
    });
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* address) {
  return WithVmm("cuMemRetainAllocationHandle", [&](Context& context) -> CUresult {
    const std::optional<Range> range = Driver::Get().memory().Find(reinterpret_cast<CUdeviceptr>(address));
    if (!handle || !range || range->kind != Range::Kind::kVirtual) return CUDA_ERROR_INVALID_VALUE;
    *handle = Driver::Get().ReferVmm(range->physical);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* properties,
                                                        CUmemGenericAllocationHandle handle) {
  return WithVmm("cuMemGetAllocationPropertiesFromHandle", [&](Context& context) -> CUresult {
    const std::shared_ptr<Physical> physical = Driver::Get().FindVmm(handle);
    if (!properties || !physical) return CUDA_ERROR_INVALID_VALUE;
    std::memset(properties, 0, sizeof *properties);
    properties->type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties->location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties->location.id = Driver::Get().Ordinal(physical->label().device);
    properties->requestedHandleTypes = static_cast<CUmemAllocationHandleType>(physical->label().handle_types);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemExportToShareableHandle(void* shareable, CUmemGenericAllocationHandle handle,
                                              CUmemAllocationHandleType type, unsigned long long flags) {
  return WithVmm("cuMemExportToShareableHandle", [&](Context& context) -> CUresult {
    const std::shared_ptr<Physical> physical = Driver::Get().FindVmm(handle);
    if (!shareable || flags != 0 || !physical || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ||
        (physical->label().handle_types & type) == 0) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const int fd = fcntl(physical->fd(), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
    *static_cast<int*>(shareable) = fd;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* shareable,
                                                CUmemAllocationHandleType type) {
  return WithVmm("cuMemImportFromShareableHandle", [&](Context& context) -> CUresult {
    if (!handle || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_INVALID_VALUE;
    const int fd = fcntl(static_cast<int>(reinterpret_cast<intptr_t>(shareable)), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) return CUDA_ERROR_INVALID_VALUE;
    std::shared_ptr<Physical> physical = Physical::Open(fd, 0);
    if (!physical || physical->label().use != static_cast<uint32_t>(Use::kVmm))
      return CUDA_ERROR_INVALID_VALUE;
    if (Driver::Get().Ordinal(physical->label().device) < 0) return CUDA_ERROR_INVALID_DEVICE;
    *handle = Driver::Get().ReferVmm(std::move(physical));
    return CUDA_SUCCESS;
  });
}
