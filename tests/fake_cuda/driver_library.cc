#include "tests/fake_cuda/driver_library.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "tests/fake_cuda/peer.h"

namespace keepstep::fake_cuda {
namespace {

void* Library() {
  static void* const library = dlopen("libcuda.so.1", RTLD_NOW);
  return library;
}

}  // namespace

bool HasDriver() { return Library() != nullptr; }

void* Symbol(const char* symbol) {
  void* const found = Library() ? dlsym(Library(), symbol) : nullptr;
  if (!found) {
    std::fprintf(stderr, "libcuda.so.1 is missing or has no %s\n", symbol);
    std::abort();
  }
  return found;
}

bool IsFake() {
  char name[64] = "";
  CU(cuInit)(0);
  CU(cuDeviceGetName)(name, sizeof name, 0);
  return std::string(name) == "Keepstep fake GPU";
}

void DriverTest::SetUp() {
  if (!HasDriver())
    GTEST_SKIP() << "no libcuda.so.1: neither a GPU's driver nor tests/fake_cuda on LD_LIBRARY_PATH";
  ASSERT_CUDA(CU(cuInit)(0));
  ASSERT_CUDA(CU(cuDeviceGet)(&device_, 0));
  ASSERT_CUDA(CU(cuDevicePrimaryCtxRetain)(&context_, device_));
  ASSERT_CUDA(CU(cuCtxSetCurrent)(context_));
}

void DriverTest::TearDown() {
  if (!context_) return;
  EXPECT_CUDA(CU(cuCtxSynchronize)());
  EXPECT_CUDA(CU(cuCtxSetCurrent)(nullptr));
  EXPECT_CUDA(CU(cuDevicePrimaryCtxRelease)(device_));
}

int DriverTest::Attribute(CUdevice_attribute attribute) {
  int value = 0;
  EXPECT_CUDA(CU(cuDeviceGetAttribute)(&value, attribute, device_));
  return value;
}

CUcontext StartGpu() {
  CUcontext context = nullptr;
  REQUIRE(CU(cuInit)(0) == CUDA_SUCCESS);
  REQUIRE(CU(cuDevicePrimaryCtxRetain)(&context, 0) == CUDA_SUCCESS);
  REQUIRE(CU(cuCtxSetCurrent)(context) == CUDA_SUCCESS);
  return context;
}

}  // namespace keepstep::fake_cuda
