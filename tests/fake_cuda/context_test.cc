// Starting the driver, devices and contexts.

#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "tests/fake_cuda/driver_library.h"
#include "tests/fake_cuda/peer.h"

namespace keepstep::fake_cuda {
namespace {

class ContextTest : public DriverTest {};

PEER(call_before_init) {
  int count = 0;
  REQUIRE(CU(cuDeviceGetCount)(&count) == CUDA_ERROR_NOT_INITIALIZED);
  REQUIRE(CU(cuInit)(0) == CUDA_SUCCESS);
  REQUIRE(CU(cuDeviceGetCount)(&count) == CUDA_SUCCESS && count >= 1);
}

TEST_F(ContextTest, NothingWorksBeforeInit) { EXPECT_TRUE(Peer("call_before_init").Ended()); }

// A trainer that forks its data loaders must not find their calls working by chance.
TEST_F(ContextTest, AForkedChildHasNoDriver) {
  const pid_t child = fork();
  if (child == 0) {
    int count = 0;
    _exit(CU(cuDeviceGetCount)(&count) == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST_F(ContextTest, DevicesHaveUuidsAndAttributes) {
  CUuuid uuid{}, none{};
  ASSERT_CUDA(CU(cuDeviceGetUuid)(&uuid, device_));
  EXPECT_NE(std::memcmp(&uuid, &none, sizeof uuid), 0);
  int count = 0;
  ASSERT_CUDA(CU(cuDeviceGetCount)(&count));
  CUdevice beyond = 0;
  EXPECT_EQ(CU(cuDeviceGet)(&beyond, count), CUDA_ERROR_INVALID_DEVICE);
  EXPECT_EQ(Attribute(CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING), 1);
  char bus[16] = "";
  ASSERT_CUDA(CU(cuDeviceGetPCIBusId)(bus, sizeof bus, device_));
  EXPECT_EQ(std::strlen(bus), 12u);
}

TEST_F(ContextTest, CallsNeedACurrentContextOnTheirThread) {
  std::thread([&] {
    CUdeviceptr pointer = 0;
    EXPECT_EQ(CU(cuMemAlloc)(&pointer, 4096), CUDA_ERROR_INVALID_CONTEXT);
    EXPECT_CUDA(CU(cuCtxPushCurrent)(context_));
    EXPECT_CUDA(CU(cuMemAlloc)(&pointer, 4096));
    EXPECT_CUDA(CU(cuMemFree)(pointer));
    CUcontext popped = nullptr;
    EXPECT_CUDA(CU(cuCtxPopCurrent)(&popped));
    EXPECT_EQ(popped, context_);
    EXPECT_EQ(CU(cuMemAlloc)(&pointer, 4096), CUDA_ERROR_INVALID_CONTEXT);
  }).join();
}

TEST_F(ContextTest, ThePrimaryContextIsOneAndCounted) {
  CUcontext again = nullptr;
  ASSERT_CUDA(CU(cuDevicePrimaryCtxRetain)(&again, device_));
  EXPECT_EQ(again, context_);
  ASSERT_CUDA(CU(cuDevicePrimaryCtxRelease)(device_));
  CUdeviceptr pointer = 0;
  ASSERT_CUDA(CU(cuMemAlloc)(&pointer, 4096));
  ASSERT_CUDA(CU(cuMemFree)(pointer));
}

PEER(release_context) {
  CUcontext context = StartGpu();
  CUdeviceptr pointer = 0;
  REQUIRE(CU(cuMemAlloc)(&pointer, 4096) == CUDA_SUCCESS);
  REQUIRE(CU(cuDevicePrimaryCtxRelease)(0) == CUDA_SUCCESS);
  unsigned flags = 0;
  int active = 1;
  REQUIRE(CU(cuDevicePrimaryCtxGetState)(0, &flags, &active) == CUDA_SUCCESS && active == 0);
  REQUIRE(CU(cuMemFree)(pointer) != CUDA_SUCCESS);
  REQUIRE(CU(cuDevicePrimaryCtxRetain)(&context, 0) == CUDA_SUCCESS);
  REQUIRE(CU(cuCtxSetCurrent)(context) == CUDA_SUCCESS);
  REQUIRE(CU(cuMemFree)(pointer) != CUDA_SUCCESS);  // what it held went with it
}

TEST_F(ContextTest, TheLastReleaseEndsItWithAllItHolds) { EXPECT_TRUE(Peer("release_context").Ended()); }

TEST_F(ContextTest, CallsAreFoundByNameToo) {
  void* function = nullptr;
  CUdriverProcAddressQueryResult status{};
  ASSERT_CUDA(CU(cuGetProcAddress)("cuMemAlloc", &function, 13000, 0, &status));
  EXPECT_EQ(status, CU_GET_PROC_ADDRESS_SUCCESS);
  EXPECT_NE(function, nullptr);
  CU(cuGetProcAddress)("cuNoSuchCall", &function, 13000, 0, &status);
  EXPECT_EQ(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
}

TEST_F(ContextTest, ErrorsHaveNames) {
  const char* name = nullptr;
  ASSERT_CUDA(CU(cuGetErrorName)(CUDA_ERROR_LAUNCH_FAILED, &name));
  EXPECT_STREQ(name, "CUDA_ERROR_LAUNCH_FAILED");
  ASSERT_CUDA(CU(cuGetErrorString)(CUDA_ERROR_INVALID_CONTEXT, &name));
  EXPECT_STREQ(name, "invalid device context");
  EXPECT_EQ(CU(cuGetErrorName)(static_cast<CUresult>(-1), &name), CUDA_ERROR_INVALID_VALUE);
}

}  // namespace
}  // namespace keepstep::fake_cuda
