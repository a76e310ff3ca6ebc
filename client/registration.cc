#include "client/registration.h"

#include <algorithm>
#include <utility>

namespace keepstep::client {
namespace {

constexpr size_t kMaxRequestBytes = 3 << 20;
constexpr size_t kFieldOverheadBytes = 8;  // tag and length

}  // namespace

std::vector<MemoryRange> Declared::Ranges() const {
  std::vector<MemoryRange> ranges;
  for (const v1::Buffer& buffer : buffers) {
    if (buffer.has_device()) {
      ranges.push_back({buffer.device().address(), static_cast<uint64_t>(buffer.device().size_bytes())});
    } else {
      ranges.push_back({buffer.host().address(), static_cast<uint64_t>(buffer.host().size_bytes())});
    }
  }
  return ranges;
}

absl::Status Locate(Devices* devices, Declared* declared) {
  std::vector<DeviceRange> ranges;
  std::vector<bool> seen(declared->buffers.size());
  for (const v1::Shard& shard : declared->shards) {
    const v1::Buffer& buffer = declared->buffers[shard.buffer_id()];
    if (!buffer.has_device() || seen[shard.buffer_id()]) continue;
    seen[shard.buffer_id()] = true;
    ranges.push_back({.address = buffer.device().address(),
                      .size_bytes = static_cast<uint64_t>(buffer.device().size_bytes()),
                      .fqn = shard.meta().fqn()});
  }
  auto found = devices->Find(ranges);
  if (!found.ok()) return found.status();
  declared->allocations = *std::move(found);
  return absl::OkStatus();
}

std::vector<v1::RegisterRequest> SplitRegistration(const Declared& declared, const DeviceOffer& offer,
                                                   uint64_t generation, size_t limit_bytes) {
  std::vector<v1::RegisterRequest> requests;
  size_t room = 0;
  const auto fit = [&](size_t size_bytes) {
    if (requests.empty() || size_bytes > room) {
      if (!requests.empty()) requests.back().set_more(true);
      requests.emplace_back().set_generation(generation);
      room = limit_bytes;
    }
    room -= std::min(room, size_bytes);
    return &requests.back();
  };
  fit(0);
  for (const v1::DeviceMemory& memory : offer.memory) {
    *fit(memory.ByteSizeLong() + kFieldOverheadBytes)->add_memory() = memory;
  }
  for (size_t i = 0; i < declared.buffers.size(); ++i) {
    v1::Buffer buffer = declared.buffers[i];
    if (i < offer.by_window.size() && offer.by_window[i]) {
      // To the daemon it is memory that the client copies, as any other.
      const v1::DeviceBuffer device = buffer.device();
      buffer.mutable_host()->set_address(device.address());
      buffer.mutable_host()->set_size_bytes(device.size_bytes());
    }
    *fit(buffer.ByteSizeLong() + kFieldOverheadBytes)->add_buffers() = std::move(buffer);
  }
  for (const v1::Shard& shard : declared.shards) {
    *fit(shard.ByteSizeLong() + kFieldOverheadBytes)->add_shards() = shard;
  }
  return requests;
}

absl::StatusOr<v1::RegisterResponse> SendRegistration(const Declared& declared, const DeviceOffer& offer,
                                                      uint64_t generation, Channel* channel, Deadline deadline) {
  v1::RegisterResponse response;
  for (const v1::RegisterRequest& request :
       SplitRegistration(declared, offer, generation, kMaxRequestBytes)) {
    response.Clear();
    const absl::Status status = channel->Register(request, deadline, &response);
    if (!status.ok()) return status;
  }
  return response;
}

}  // namespace keepstep::client
