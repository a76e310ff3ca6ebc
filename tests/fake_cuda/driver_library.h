// The driver under test, as the product loads it: the libcuda.so.1 that the loader finds. With
// tests/fake_cuda first on LD_LIBRARY_PATH that is the fake, without it the real one.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_DRIVER_LIBRARY_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_DRIVER_LIBRARY_H_

#include <cuda.h>
#include <gtest/gtest.h>

#include <string>

namespace keepstep::fake_cuda {

// The address of `symbol`; ends the process with a message when there is no driver or no such symbol.
void* Symbol(const char* symbol);

// Whether a driver can be loaded.
bool HasDriver();

// Whether it is the fake. Starts it in this process, by the variables as they are then.
bool IsFake();

#define KEEPSTEP_STRING_OF(text) #text
#define KEEPSTEP_STRING(text) KEEPSTEP_STRING_OF(text)

// A call of the driver by the name that cuda.h maps it to: CU(cuMemAlloc)(&pointer, bytes).
#define CU(function) \
  (reinterpret_cast<decltype(&function)>(keepstep::fake_cuda::Symbol(KEEPSTEP_STRING(function))))

#define EXPECT_CUDA(call) EXPECT_EQ(call, CUDA_SUCCESS)
#define ASSERT_CUDA(call) ASSERT_EQ(call, CUDA_SUCCESS)

#define SKIP_UNLESS_FAKE(reason) \
  if (!keepstep::fake_cuda::IsFake()) GTEST_SKIP() << "on a real GPU: " << (reason)

// GPU 0 and its context, current on the test's thread; skips where there is no driver.
class DriverTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  int Attribute(CUdevice_attribute attribute);

  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
};

// Retains and makes current the context of GPU 0, in a peer: ends the process where that fails.
CUcontext StartGpu();

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_DRIVER_LIBRARY_H_
