// Names of errors, and the way from a call's name to its address.

#include <cuda.h>

#include "tests/fake_cuda/find_call.h"

using namespace keepstep::fake_cuda;

namespace {

struct Text {
  CUresult code;
  const char* name;
  const char* meaning;
};

#define KEEPSTEP_TEXT(name, meaning) \
  { name, #name, meaning }

constexpr Text kTexts[] = {
    KEEPSTEP_TEXT(CUDA_SUCCESS, "no error"),
    KEEPSTEP_TEXT(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    KEEPSTEP_TEXT(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    KEEPSTEP_TEXT(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    KEEPSTEP_TEXT(CUDA_ERROR_DEINITIALIZED, "driver shutting down"),
    KEEPSTEP_TEXT(CUDA_ERROR_DEVICE_UNAVAILABLE, "CUDA-capable device(s) is/are busy or unavailable"),
    KEEPSTEP_TEXT(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    KEEPSTEP_TEXT(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    KEEPSTEP_TEXT(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    KEEPSTEP_TEXT(CUDA_ERROR_MAP_FAILED, "mapping of buffer object failed"),
    KEEPSTEP_TEXT(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered"),
    KEEPSTEP_TEXT(CUDA_ERROR_CONTAINED, "Invalid access of peer GPU memory over nvlink or a hardware error"),
    KEEPSTEP_TEXT(CUDA_ERROR_OPERATING_SYSTEM, "OS call failed or operation not supported on this OS"),
    KEEPSTEP_TEXT(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    KEEPSTEP_TEXT(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    KEEPSTEP_TEXT(CUDA_ERROR_NOT_READY, "device not ready"),
    KEEPSTEP_TEXT(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    KEEPSTEP_TEXT(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
    KEEPSTEP_TEXT(CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated"),
    KEEPSTEP_TEXT(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE, "cannot set while device is active in this process"),
    KEEPSTEP_TEXT(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed"),
    KEEPSTEP_TEXT(CUDA_ERROR_ASSERT, "device-side assert triggered"),
    KEEPSTEP_TEXT(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
                  "part or all of the requested memory range is already mapped"),
    KEEPSTEP_TEXT(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
                  "pointer does not correspond to a registered memory region"),
    KEEPSTEP_TEXT(CUDA_ERROR_HARDWARE_STACK_ERROR, "hardware stack error"),
    KEEPSTEP_TEXT(CUDA_ERROR_ILLEGAL_INSTRUCTION, "an illegal instruction was encountered"),
    KEEPSTEP_TEXT(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address"),
    KEEPSTEP_TEXT(CUDA_ERROR_INVALID_ADDRESS_SPACE, "operation not supported on global/shared address space"),
    KEEPSTEP_TEXT(CUDA_ERROR_INVALID_PC, "invalid program counter"),
    KEEPSTEP_TEXT(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    KEEPSTEP_TEXT(CUDA_ERROR_TENSOR_MEMORY_LEAK, "tensor memory was not completely deallocated"),
    KEEPSTEP_TEXT(CUDA_ERROR_EXTERNAL_DEVICE,
                  "an async error has occurred in external entity outside of CUDA"),
    KEEPSTEP_TEXT(CUDA_ERROR_NOT_PERMITTED, "operation not permitted"),
    KEEPSTEP_TEXT(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
    KEEPSTEP_TEXT(CUDA_ERROR_SYSTEM_NOT_READY, "system not yet initialized"),
    KEEPSTEP_TEXT(CUDA_ERROR_UNKNOWN, "unknown error"),
};

#undef KEEPSTEP_TEXT

CUresult Find(CUresult code, const char** into, const char* Text::*field) {
  if (!into) return CUDA_ERROR_INVALID_VALUE;
  *into = nullptr;
  for (const Text& text : kTexts) {
    if (text.code == code) *into = text.*field;
  }
  return *into ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace

CUresult CUDAAPI cuGetErrorName(CUresult code, const char** name) { return Find(code, name, &Text::name); }

CUresult CUDAAPI cuGetErrorString(CUresult code, const char** meaning) {
  return Find(code, meaning, &Text::meaning);
}

// The newest version of the call that this library has. There are no variants for per-thread default streams:
// pass CU_STREAM_PER_THREAD.
CUresult CUDAAPI cuGetProcAddress(const char* symbol, void** function, int version, cuuint64_t flags,
                                  CUdriverProcAddressQueryResult* status) {
  if (!symbol || !function) return CUDA_ERROR_INVALID_VALUE;
  if ((flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  *function = FindCall(symbol);
  if (status) *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
