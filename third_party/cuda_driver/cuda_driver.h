// The CUDA driver, loaded when it is first asked for, in place of linking with it: so that a machine without one
// runs the same programs.
//
// cuda.h gives the types; its macros give each function the version of this header (`cu.cuMemFree(…)` calls
// cuMemFree_v2). Loading runs none of the driver's code: cuInit is the caller's to call, in processes that use
// CUDA alone.

#ifndef KEEPSTEP_THIRD_PARTY_CUDA_DRIVER_CUDA_DRIVER_H_
#define KEEPSTEP_THIRD_PARTY_CUDA_DRIVER_CUDA_DRIVER_H_

#include <cuda.h>

#include <string>

namespace keepstep::cuda {

// What Keepstep calls. All are there in drivers from CUDA 11.3 on.
#define KEEPSTEP_CUDA_FUNCTIONS(X) \
  X(cuInit)                                   \
  X(cuDriverGetVersion)                       \
  X(cuGetErrorName)                           \
  X(cuGetErrorString)                         \
  X(cuDeviceGetCount)                         \
  X(cuDeviceGet)                              \
  X(cuDeviceGetName)                          \
  X(cuDeviceGetUuid)                          \
  X(cuDeviceGetAttribute)                     \
  X(cuDevicePrimaryCtxRetain)                 \
  X(cuDevicePrimaryCtxRelease)                \
  X(cuDevicePrimaryCtxGetState)               \
  X(cuCtxSetCurrent)                          \
  X(cuCtxGetCurrent)                          \
  X(cuCtxGetDevice)                           \
  X(cuCtxSynchronize)                         \
  X(cuPointerGetAttribute)                    \
  X(cuMemGetAddressRange)                     \
  X(cuMemGetInfo)                             \
  X(cuMemAlloc)                               \
  X(cuMemFree)                                \
  X(cuIpcGetMemHandle)                        \
  X(cuIpcOpenMemHandle)                       \
  X(cuIpcCloseMemHandle)                      \
  X(cuIpcGetEventHandle)                      \
  X(cuIpcOpenEventHandle)                     \
  X(cuMemCreate)                              \
  X(cuMemGetAllocationGranularity)            \
  X(cuMemRetainAllocationHandle)              \
  X(cuMemExportToShareableHandle)             \
  X(cuMemImportFromShareableHandle)           \
  X(cuMemGetAllocationPropertiesFromHandle)   \
  X(cuMemRelease)                             \
  X(cuMemAddressReserve)                      \
  X(cuMemAddressFree)                         \
  X(cuMemMap)                                 \
  X(cuMemUnmap)                               \
  X(cuMemSetAccess)                           \
  X(cuMemsetD8Async)                          \
  X(cuMemHostRegister)                        \
  X(cuMemHostUnregister)                      \
  X(cuMemHostGetDevicePointer)                \
  X(cuMemcpyHtoDAsync)                        \
  X(cuMemcpyDtoHAsync)                        \
  X(cuStreamCreateWithPriority)               \
  X(cuStreamDestroy)                          \
  X(cuStreamGetCtx)                           \
  X(cuStreamQuery)                            \
  X(cuStreamSynchronize)                      \
  X(cuStreamWaitValue32)                      \
  X(cuStreamWaitEvent)                        \
  X(cuStreamWriteValue32)                     \
  X(cuLaunchHostFunc)                         \
  X(cuEventCreate)                            \
  X(cuEventDestroy)                           \
  X(cuEventRecord)                            \
  X(cuEventQuery)                             \
  X(cuEventSynchronize)

struct Driver {
#define KEEPSTEP_CUDA_MEMBER(name) decltype(&::name) name = nullptr;
  KEEPSTEP_CUDA_FUNCTIONS(KEEPSTEP_CUDA_MEMBER)
#undef KEEPSTEP_CUDA_MEMBER

  // "CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal memory access was encountered". Any thread.
  std::string Describe(CUresult result) const;
};

// The process's driver, or null where there is none; then `why` says so. The same answer for the whole life of
// the process. Thread-safe.
const Driver* LoadDriver(std::string* why = nullptr);

}  // namespace keepstep::cuda

#endif  // KEEPSTEP_THIRD_PARTY_CUDA_DRIVER_CUDA_DRIVER_H_
