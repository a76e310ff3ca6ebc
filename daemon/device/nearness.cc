#include "daemon/device/nearness.h"

#include <cstdio>

namespace keepstep::daemon {
namespace {

// CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, by its number: headers before CUDA 12.3 lack the name, and drivers refuse it.
constexpr auto kHostNumaId = static_cast<CUdevice_attribute>(134);

int NodeOf(const cuda::Driver& cu, CUdevice device, const std::string& sysfs) {
  int node = kAnyNode;
  if (cu.cuDeviceGetAttribute(&node, kHostNumaId, device) == CUDA_SUCCESS && node >= 0) return node;
  int domain = 0, bus = 0, slot = 0;
  if (cu.cuDeviceGetAttribute(&domain, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, device) != CUDA_SUCCESS ||
      cu.cuDeviceGetAttribute(&bus, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, device) != CUDA_SUCCESS ||
      cu.cuDeviceGetAttribute(&slot, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, device) != CUDA_SUCCESS) {
    return kAnyNode;
  }
  char address[32];
  snprintf(address, sizeof(address), "%04x:%02x:%02x.0", domain, bus, slot);
  return NodeOfPciDevice(sysfs, address);
}

}  // namespace

Nearness StayNear(const cuda::Driver& driver, CUdevice device, const std::string& sysfs) {
  Nearness nearness{.node = NodeToChoose(sysfs, NodeOf(driver, device, sysfs))};
  if (nearness.node != kAnyNode) nearness.why_elsewhere = std::string(StayOnNode(sysfs, nearness.node).message());
  return nearness;
}

}  // namespace keepstep::daemon
