// cuPointerGetAttribute and its plural.

#include <cstring>

#include "tests/fake_cuda/driver.h"

using namespace keepstep::fake_cuda;

namespace {

template <typename Value>
CUresult Store(void* into, Value value) {
  std::memcpy(into, &value, sizeof value);
  return CUDA_SUCCESS;
}

CUresult OfDevice(void* into, CUpointer_attribute attribute, CUdeviceptr pointer, const Range& range) {
  Driver& driver = Driver::Get();
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      // VMM and pool memory belongs to the GPU, not to a context.
      return Store(into, range.kind == Range::Kind::kVirtual || range.kind == Range::Kind::kPool
                             ? nullptr
                             : reinterpret_cast<CUcontext>(driver.ContextOf(range.device)));
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return Store(into, static_cast<unsigned>(CU_MEMORYTYPE_DEVICE));
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      return Store(into, pointer);
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      return Store(into, static_cast<unsigned long long>(range.id));
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
      return Store(into, 0);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return Store(into, range.device);
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      return Store(into, static_cast<int>(range.kind == Range::Kind::kAllocated && driver.options().ipc));
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
      return Store(into, range.base);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
      return Store(into, range.size_bytes);
    case CU_POINTER_ATTRIBUTE_MAPPED:
      return Store(into, 1);
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      return Store(into, static_cast<unsigned long long>(range.physical->label().handle_types));
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      return Store(into, range.writable   ? CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE
                         : range.readable ? CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READ
                                          : CU_POINTER_ATTRIBUTE_ACCESS_FLAG_NONE);
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
      // The default pool: no call here takes it, so any one value names it.
      return Store(into, range.kind == Range::Kind::kPool
                             ? reinterpret_cast<CUmemoryPool>(driver.ContextOf(range.device))
                             : nullptr);
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult OfHost(void* into, CUpointer_attribute attribute, CUdeviceptr pointer, const HostRange& range) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return Store(into, static_cast<unsigned>(CU_MEMORYTYPE_HOST));
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      return Store(into, pointer);
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      return Store(into, static_cast<unsigned long long>(range.id));
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      return Store(into, range.base);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      return Store(into, range.size_bytes);
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      return Store(into, 0);
    case CU_POINTER_ATTRIBUTE_MAPPED:
      return Store(into, 1);
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult Get(void* into, CUpointer_attribute attribute, CUdeviceptr pointer) {
  if (!into) return CUDA_ERROR_INVALID_VALUE;
  MemoryMap& memory = Driver::Get().memory();
  if (const std::optional<Range> range = memory.Find(pointer))
    return OfDevice(into, attribute, pointer, *range);
  if (const std::optional<HostRange> range = memory.FindHost(pointer)) {
    return OfHost(into, attribute, pointer, *range);
  }
  return CUDA_ERROR_INVALID_VALUE;
}

// What the plural gives for memory it knows nothing of: nothing, in the attribute's size.
void StoreNothing(void* into, CUpointer_attribute attribute) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      Store(into, -2);
      break;
    case CU_POINTER_ATTRIBUTE_CONTEXT:
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      Store(into, uint64_t{0});
      break;
    default:
      Store(into, 0);
  }
}

}  // namespace

CUresult CUDAAPI cuPointerGetAttribute(void* into, CUpointer_attribute attribute, CUdeviceptr pointer) {
  return InContext("cuPointerGetAttribute", [&](Context& context) { return Get(into, attribute, pointer); });
}

CUresult CUDAAPI cuPointerGetAttributes(unsigned int count, CUpointer_attribute* attributes, void** into,
                                        CUdeviceptr pointer) {
  return InContext("cuPointerGetAttributes", [&](Context& context) -> CUresult {
    if (!attributes || !into) return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < count; ++i) {
      if (Get(into[i], attributes[i], pointer) != CUDA_SUCCESS) StoreNothing(into[i], attributes[i]);
    }
    return CUDA_SUCCESS;
  });
}
