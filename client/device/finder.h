// Finds out what addresses of GPU memory are: which allocation, which GPU, which path.
//
//   1. The driver is asked once for each allocation or mapped piece that a range touches, in the GPU's
//   context.
//   2. `ipc` if it gives a legacy handle for the base; else `vmm` if the piece may be exported as a
//   descriptor; else
//      `window`.
//   3. What was found is kept until the next call, and used again if the driver's numbers for the memory say
//   that it is
//      the same: memory that was freed, and another at its address, never gets the old handle.

#ifndef KEEPSTEP_CLIENT_DEVICE_FINDER_H_
#define KEEPSTEP_CLIENT_DEVICE_FINDER_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/device/allocation.h"
#include "client/device/contexts.h"

namespace keepstep::client {

// One thread at a time.
class Finder {
 public:
  Finder(const cuda::Driver& cu, Contexts* contexts) : cu_(cu), contexts_(contexts) {}

  // As Devices::Find says.
  absl::StatusOr<std::vector<Allocation>> Find(absl::Span<const DeviceRange> ranges);

 private:
  absl::StatusOr<Allocation> Ask(uint64_t address, const DeviceRange& range);
  absl::Status ChoosePath(Allocation* allocation, const DeviceRange& range) const;
  bool Number(Allocation* allocation) const;

  const cuda::Driver& cu_;
  Contexts* contexts_;
  std::map<uint64_t, Allocation> found_;  // of the last call, by address
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_FINDER_H_
