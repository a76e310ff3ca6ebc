#include "client/device/driver_facts.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "third_party/cuda_driver/cuda_driver.h"

namespace keepstep::client {
namespace {

std::string Describe(const cuda::Driver& cu, int ordinal) {
  CUdevice device = 0;
  if (const CUresult result = cu.cuDeviceGet(&device, ordinal); result != CUDA_SUCCESS)
    return cu.Describe(result);
  char name[128] = {};
  (void)cu.cuDeviceGetName(name, sizeof(name) - 1, device);
  const auto has = [&](CUdevice_attribute attribute, const char* what) {
    int value = 0;
    const bool there = cu.cuDeviceGetAttribute(&value, attribute, device) == CUDA_SUCCESS && value != 0;
    return absl::StrCat(there ? "" : "no ", what);
  };
  const std::vector<std::string> facts = {
      has(CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED, "ipc events"),
      has(CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, "vmm descriptors"),
      has(CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, "stream memory operations")};
  return absl::StrCat(name, " (", absl::StrJoin(facts, ", "), ")");
}

}  // namespace

DriverFacts LookAtDriver() {
  std::string why;
  const cuda::Driver* const cu = cuda::LoadDriver(&why);
  if (cu == nullptr) return {.works = true, .text = absl::StrCat(why, ": host memory alone")};
  if (const CUresult result = cu->cuInit(0); result != CUDA_SUCCESS)
    return {.works = false, .text = absl::StrCat("CUDA does not start: ", cu->Describe(result))};
  int version = 0, count = 0;
  (void)cu->cuDriverGetVersion(&version);
  (void)cu->cuDeviceGetCount(&count);
  std::vector<std::string> gpus;
  for (int ordinal = 0; ordinal < count; ++ordinal) gpus.push_back(Describe(*cu, ordinal));
  return {.works = true,
          .text = absl::StrCat("CUDA ", version / 1000, ".", version % 1000 / 10, ", ", count,
                               count == 1 ? " GPU" : " GPUs", gpus.empty() ? "" : ": ",
                               absl::StrJoin(gpus, "; "))};
}

}  // namespace keepstep::client
