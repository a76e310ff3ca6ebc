// The error that a context is stuck with.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_STICKY_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_STICKY_H_

#include <cuda.h>

#include <atomic>

namespace keepstep::fake_cuda {

// Whether cuda.h says of `code` that further work returns the same error until the process ends.
inline bool IsSticky(CUresult code) {
  switch (code) {
    case CUDA_ERROR_CONTAINED:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_TENSOR_MEMORY_LEAK:
    case CUDA_ERROR_EXTERNAL_DEVICE:
      return true;
    default:
      return false;
  }
}

// Thread-safe; the first error stays.
class Sticky {
 public:
  CUresult code() const { return code_.load(); }

  void Set(CUresult code) {
    CUresult none = CUDA_SUCCESS;
    code_.compare_exchange_strong(none, code);
  }

 private:
  std::atomic<CUresult> code_ = CUDA_SUCCESS;
};

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_STICKY_H_
