#include "daemon/save_samples.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "daemon/box_mover.h"
#include "daemon/error.h"
#include "reshard/dtype.h"

namespace keepstep::daemon {

SaveSamples::SaveSamples(const reshard::RankShards& shards, const std::vector<uint64_t>& buffer_addresses,
                         const std::vector<bool>& on_gpu)
    : buffer_addresses_(buffer_addresses) {
  std::vector<const reshard::TensorShard*> all;
  for (const reshard::TensorShard& shard : shards.shards) {
    const bool sampled = shard.buffer < on_gpu.size() && on_gpu[shard.buffer] && !shard.boxes.empty() &&
                         reshard::NumElements(shard.boxes.front().box) > 0;
    if (sampled) all.push_back(&shard);
  }
  const size_t step = (all.size() + kMaxTensors - 1) / kMaxTensors;
  for (size_t i = 0; i < all.size(); ++i) {
    Group& group = groups_[all[i]->group];
    if (i % step == 0 || group.shards.empty()) group.shards.push_back(all[i]);  // one of each group at least
  }
}

// From the middle of the first box: padding, if there is any, is at ends.
absl::Status SaveSamples::Read(const Group& group, MemoryPort& port, Cancellation& cancel,
                               std::vector<std::byte>* into) const {
  into->assign(group.shards.size() * kSampleBytes, std::byte{0});
  BoxMover mover(port, Direction::kFromTrainer, cancel);
  for (size_t i = 0; i < group.shards.size(); ++i) {
    const reshard::TensorShard& shard = *group.shards[i];
    const int64_t item_bytes = reshard::SizeBytes(shard.meta.dtype);
    const int64_t size_bytes = reshard::NumElements(shard.boxes.front().box) * item_bytes;
    const int64_t take_bytes = std::min(kSampleBytes, size_bytes);
    const int64_t begin = (size_bytes - take_bytes) / 2;
    const TrainerBox box{&shard.boxes.front(), buffer_addresses_[shard.buffer], item_bytes};
    absl::Status status = mover.MoveBytes(begin, begin + take_bytes, box, into->data() + i * kSampleBytes);
    if (!status.ok()) return status;
  }
  return mover.Flush();
}

absl::Status SaveSamples::Take(MemoryPort& port, Cancellation& cancel) {
  for (auto& [number, group] : groups_) {
    if (absl::Status status = Read(group, port, cancel, &group.bytes); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status SaveSamples::Check(uint32_t number, MemoryPort& port, Cancellation& cancel) const {
  const auto found = groups_.find(number);
  if (found == groups_.end()) return absl::OkStatus();
  std::vector<std::byte> now;
  if (absl::Status status = Read(found->second, port, cancel, &now); !status.ok()) return status;
  for (size_t i = 0; i < found->second.shards.size(); ++i) {
    if (std::memcmp(&now[i * kSampleBytes], &found->second.bytes[i * kSampleBytes], kSampleBytes) == 0) continue;
    return MakeError(absl::StatusCode::kAborted, "UPDATED_DURING_SAVE",
                     absl::StrCat(found->second.shards[i]->meta.fqn,
                                  " changed while it was copied: its update did not wait for the gate. Call "
                                  "before_update(group) before every update."),
                     "copy");
  }
  return absl::OkStatus();
}

}  // namespace keepstep::daemon
