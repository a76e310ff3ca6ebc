// From the name of a call to its address in this library.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_FIND_CALL_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_FIND_CALL_H_

#include <string>

namespace keepstep::fake_cuda {

// The newest version of the call that cuda.h calls `name` (cuMemAlloc: cuMemAlloc_v2); null when there is
// none.
void* FindCall(const std::string& name);

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_FIND_CALL_H_
