// What a rank holds, in the form in which it can be declared again to a daemon that has restarted.

#ifndef KEEPSTEP_CLIENT_REGISTRATION_H_
#define KEEPSTEP_CLIENT_REGISTRATION_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/buffer_table.h"
#include "client/channel.h"
#include "client/deadline.h"
#include "client/device/devices.h"
#include "client/samples.h"
#include "proto/sessions.pb.h"

namespace keepstep::client {

struct Declared {
  std::vector<v1::Buffer> buffers;  // ids are indices
  std::vector<v1::Shard> shards;
  SamplePlan samples;
  DeviceSamplePlan device_samples;      // of all GPU memory, by whichever path it goes; no limit is applied yet
  std::vector<uint32_t> gpu_groups;     // whose tensors all lie in GPU memory, in order
  std::vector<Allocation> allocations;  // that the GPU's buffers lie in, by address; Locate fills it in

  std::vector<MemoryRange> Ranges() const;
};

// Asks the driver about the buffers in GPU memory. Errors are those of Devices::Find.
absl::Status Locate(Devices* devices, Declared* declared);

// What the daemon is told of GPU memory: which of it it maps, and which buffers it reaches through the
// window.
struct DeviceOffer {
  std::vector<bool> by_window;  // by buffer; may be shorter than the buffers
  std::vector<v1::DeviceMemory> memory;
};

// The messages that declare all of `declared` as `generation`, each at most `limit_bytes`, at least one.
std::vector<v1::RegisterRequest> SplitRegistration(const Declared& declared, const DeviceOffer& offer,
                                                   uint64_t generation, size_t limit_bytes);

// Sends them in order. The daemon takes a generation as a whole or not at all; what it answers to the last of them.
absl::StatusOr<v1::RegisterResponse> SendRegistration(const Declared& declared, const DeviceOffer& offer,
                                                      uint64_t generation, Channel* channel, Deadline deadline);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_REGISTRATION_H_
