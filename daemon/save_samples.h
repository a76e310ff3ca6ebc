// Samples of GPU tensors that the daemon takes before it copies a group and after it has: an update that ignored the
// gate shows there. Of host memory the client takes them (client/samples.h): it reads its own memory for nothing, and
// another process's GPU memory is nobody's to read but the worker's.

#ifndef KEEPSTEP_DAEMON_SAVE_SAMPLES_H_
#define KEEPSTEP_DAEMON_SAVE_SAMPLES_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "daemon/memory_port.h"
#include "reshard/tensor.h"

namespace keepstep::daemon {

// Take is called once, before anything else; Check from any thread, each group once.
class SaveSamples {
 public:
  static constexpr int64_t kSampleBytes = 64;
  static constexpr size_t kMaxTensors = 1024;  // over all groups, evenly spread

  // Of the shards in buffers that `on_gpu` marks (empty: none). All outlive it.
  SaveSamples(const reshard::RankShards& shards, const std::vector<uint64_t>& buffer_addresses,
              const std::vector<bool>& on_gpu);

  absl::Status Take(MemoryPort& port, Cancellation& cancel);

  // ABORTED (UPDATED_DURING_SAVE), naming a tensor of the group that differs.
  absl::Status Check(uint32_t group, MemoryPort& port, Cancellation& cancel) const;

 private:
  struct Group {
    std::vector<const reshard::TensorShard*> shards;
    std::vector<std::byte> bytes;  // kSampleBytes for each of them
  };

  absl::Status Read(const Group& group, MemoryPort& port, Cancellation& cancel, std::vector<std::byte>* into) const;

  const std::vector<uint64_t>& buffer_addresses_;
  std::map<uint32_t, Group> groups_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_SAVE_SAMPLES_H_
