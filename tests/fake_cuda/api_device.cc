// cuInit, devices, primary contexts and the current context.

#include <cstdio>
#include <cstring>

#include "tests/fake_cuda/driver.h"

using namespace keepstep::fake_cuda;

namespace {

constexpr int kDriverVersion = 13000;

int Attribute(CUdevice_attribute attribute, int ordinal, bool& known) {
  const Options& options = Driver::Get().options();
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE:
      return options.exclusive ? CU_COMPUTEMODE_EXCLUSIVE_PROCESS : CU_COMPUTEMODE_DEFAULT;
    case CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED:
      return options.ipc;
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
      return options.vmm;
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
      return options.vmm && options.posix_fd;
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR_V1:
      return options.stream_memory_operations;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
      return options.pools;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      return 1;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
      return 2;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return 9;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
      return ordinal + 1;
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID:
      known = options.knows_host_numa_id;
      return static_cast<int>(options.devices[ordinal].host_numa_id);
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID:
    case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID:
    case CU_DEVICE_ATTRIBUTE_INTEGRATED:
    case CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED:
      return 0;
    default:
      known = false;
      return 0;
  }
}

// Calls `function` with the context of `device`.
template <typename Function>
CUresult OnDevice(const char* call, CUdevice device, Function&& function) {
  return Initialized(call, [&]() -> CUresult {
    Context* context = Driver::Get().ContextOf(device);
    return context ? function(*context) : CUDA_ERROR_INVALID_DEVICE;
  });
}

}  // namespace

CUresult CUDAAPI cuInit(unsigned int flags) {
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const CUresult initialized = Driver::Get().Initialize();
  return initialized == CUDA_SUCCESS ? Driver::Get().Enter("cuInit") : initialized;
}

CUresult CUDAAPI cuDriverGetVersion(int* version) {
  if (!version) return CUDA_ERROR_INVALID_VALUE;
  *version = kDriverVersion;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetCount(int* count) {
  return Initialized("cuDeviceGetCount", [&]() -> CUresult {
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    *count = static_cast<int>(Driver::Get().options().devices.size());
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDeviceGet(CUdevice* device, int ordinal) {
  return OnDevice("cuDeviceGet", ordinal, [&](Context& context) -> CUresult {
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    *device = context.ordinal();
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  return OnDevice("cuDeviceGetUuid", device, [&](Context& context) -> CUresult {
    if (!uuid) return CUDA_ERROR_INVALID_VALUE;
    std::memcpy(uuid->bytes, context.options().uuid.data(), sizeof uuid->bytes);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDeviceGetName(char* name, int length, CUdevice device) {
  return OnDevice("cuDeviceGetName", device, [&](Context& context) -> CUresult {
    if (!name || length <= 0) return CUDA_ERROR_INVALID_VALUE;
    std::snprintf(name, static_cast<size_t>(length), "Keepstep fake GPU");
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDeviceGetPCIBusId(char* id, int length, CUdevice device) {
  return OnDevice("cuDeviceGetPCIBusId", device, [&](Context& context) -> CUresult {
    if (!id || length < 13) return CUDA_ERROR_INVALID_VALUE;
    std::snprintf(id, static_cast<size_t>(length), "0000:%02x:00.0", context.ordinal() + 1);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  return OnDevice("cuDeviceGetAttribute", device, [&](Context& context) -> CUresult {
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    bool known = true;
    *value = Attribute(attribute, context.ordinal(), known);
    return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult CUDAAPI cuDeviceTotalMem(size_t* bytes, CUdevice device) {
  return OnDevice("cuDeviceTotalMem", device, [&](Context& context) -> CUresult {
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    *bytes = static_cast<size_t>(Driver::Get().options().memory_bytes);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext* result, CUdevice device) {
  return OnDevice("cuDevicePrimaryCtxRetain", device, [&](Context& context) -> CUresult {
    if (!result) return CUDA_ERROR_INVALID_VALUE;
    std::lock_guard lock(context.retained_mutex);
    Driver& driver = Driver::Get();
    if (context.retained == 0 &&
        !driver.counters().AddContext(context.device_number(), driver.options().exclusive)) {
      return CUDA_ERROR_DEVICE_UNAVAILABLE;
    }
    ++context.retained;
    *result = reinterpret_cast<CUcontext>(&context);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice device) {
  return OnDevice("cuDevicePrimaryCtxRelease", device, [&](Context& context) -> CUresult {
    std::lock_guard lock(context.retained_mutex);
    if (context.retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (--context.retained > 0) return CUDA_SUCCESS;
    Driver::Get().Destroy(context);
    Driver::Get().counters().RemoveContext(context.device_number());
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDevicePrimaryCtxGetState(CUdevice device, unsigned int* flags, int* active) {
  return OnDevice("cuDevicePrimaryCtxGetState", device, [&](Context& context) -> CUresult {
    if (!flags || !active) return CUDA_ERROR_INVALID_VALUE;
    *flags = 0;
    *active = context.retained > 0;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext* result) {
  return Initialized("cuCtxGetCurrent", [&]() -> CUresult {
    if (!result) return CUDA_ERROR_INVALID_VALUE;
    *result = CurrentContexts().empty() ? nullptr : reinterpret_cast<CUcontext>(CurrentContexts().back());
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuCtxSetCurrent(CUcontext handle) {
  return Initialized("cuCtxSetCurrent", [&]() -> CUresult {
    Context* context = Driver::Get().Known(handle);
    if (handle && !context) return CUDA_ERROR_INVALID_CONTEXT;
    if (!CurrentContexts().empty()) CurrentContexts().pop_back();
    if (context) CurrentContexts().push_back(context);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuCtxPushCurrent(CUcontext handle) {
  return Initialized("cuCtxPushCurrent", [&]() -> CUresult {
    Context* context = Driver::Get().Known(handle);
    if (!context) return CUDA_ERROR_INVALID_CONTEXT;
    CurrentContexts().push_back(context);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuCtxPopCurrent(CUcontext* result) {
  return Initialized("cuCtxPopCurrent", [&]() -> CUresult {
    if (CurrentContexts().empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (result) *result = reinterpret_cast<CUcontext>(CurrentContexts().back());
    CurrentContexts().pop_back();
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice* device) {
  return InContext("cuCtxGetDevice", [&](Context& context) -> CUresult {
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    *device = context.ordinal();
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuCtxSynchronize() {
  return InContext("cuCtxSynchronize", [&](Context& context) -> CUresult {
    context.Synchronize();
    return Waited(context);
  });
}

CUresult CUDAAPI cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return InContext("cuCtxGetStreamPriorityRange", [&](Context& context) -> CUresult {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return CUDA_SUCCESS;
  });
}
