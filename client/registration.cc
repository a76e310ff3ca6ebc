#include "client/registration.h"

namespace keepstep::client {
namespace {

constexpr size_t kMaxRequestBytes = 3 << 20;
constexpr size_t kFieldOverheadBytes = 8;  // tag and length

}  // namespace

std::vector<MemoryRange> Declared::Ranges() const {
  std::vector<MemoryRange> ranges;
  for (const v1::Buffer& buffer : buffers) {
    ranges.push_back({buffer.host().address(), static_cast<uint64_t>(buffer.host().size_bytes())});
  }
  return ranges;
}

std::vector<v1::RegisterRequest> SplitRegistration(const Declared& declared, uint64_t generation,
                                                   size_t limit_bytes) {
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
  for (const v1::Buffer& buffer : declared.buffers) {
    *fit(buffer.ByteSizeLong() + kFieldOverheadBytes)->add_buffers() = buffer;
  }
  for (const v1::Shard& shard : declared.shards) {
    *fit(shard.ByteSizeLong() + kFieldOverheadBytes)->add_shards() = shard;
  }
  return requests;
}

absl::Status SendRegistration(const Declared& declared, uint64_t generation, Channel* channel,
                              Deadline deadline) {
  for (const v1::RegisterRequest& request : SplitRegistration(declared, generation, kMaxRequestBytes)) {
    v1::RegisterResponse response;
    const absl::Status status = channel->Register(request, deadline, &response);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace keepstep::client
