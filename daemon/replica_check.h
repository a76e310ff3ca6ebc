// A layout's first save compares a sample of every declared replica between its holders: what is said to be
// the same content must be, or one rank's copy would silently stand for another's.

#ifndef KEEPSTEP_DAEMON_REPLICA_CHECK_H_
#define KEEPSTEP_DAEMON_REPLICA_CHECK_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "daemon/memory_port.h"
#include "reshard/save_plan.h"
#include "reshard/tensor.h"

namespace keepstep::daemon {

inline constexpr int64_t kReplicaSampleBytes = 64 << 10;  // of each replica: its beginning, middle and end

// How to reach one rank's registered memory.
struct RankMemory {
  std::shared_ptr<const reshard::RankShards> shards;
  std::vector<uint64_t> buffer_addresses;
  std::shared_ptr<MemoryPort> port;
};

// Blocks while it reads. Holders of a replica that are not in `ranks` (other nodes) are left out.
// FAILED_PRECONDITION, its message beginning with kReplicaMismatch, naming tensor and ranks; errors of the
// ports.
absl::Status CheckReplicas(const reshard::SavePlan& plan, absl::Span<const RankMemory> ranks,
                           Cancellation& cancel);

inline constexpr char kReplicaMismatch[] = "REPLICA_MISMATCH";

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_REPLICA_CHECK_H_
