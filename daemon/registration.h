// What one session has registered: buffers of its memory, and the shards that lie in them.
//
// A generation arrives in messages; it replaces the one before as a whole, when its last message has passed
// every check, or not at all. A Registration is immutable, so that saves and loads under way keep the one
// that they began with.

#ifndef KEEPSTEP_DAEMON_REGISTRATION_H_
#define KEEPSTEP_DAEMON_REGISTRATION_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/device/declared_memory.h"
#include "daemon/registration_budget.h"
#include "proto/sessions.pb.h"
#include "reshard/layout.h"
#include "reshard/tensor.h"

namespace keepstep::daemon {

class DeviceTable;

inline constexpr size_t kMaxShards = 1 << 20;
inline constexpr size_t kMaxBoxes = 1 << 22;
inline constexpr int64_t kMaxRankBytes = int64_t{1} << 48;  // of the largest world still fits in 64 bits

struct Registration {
  uint64_t generation = 0;
  std::string fingerprint;
  std::shared_ptr<const reshard::RankShards> shards;  // TensorShard::buffer is an index of `addresses`
  std::vector<uint64_t> addresses;
  std::vector<int64_t> sizes_bytes;
  std::vector<uint32_t> buffer_ids;  // the client's
  std::vector<bool> on_gpu;          // by buffer
  std::vector<DeclaredMemory> gpu_memory;      // by address, none over another
  std::shared_ptr<const DeviceTable> devices;  // its mappings, once they are open; null: it has no GPU memory
  int64_t total_bytes = 0;           // of all boxes
  RegistrationCharge charge;         // for the memory of all this
};

// Not thread-safe: one call of Register at a time.
class RegistrationBuilder {
 public:
  RegistrationBuilder(reshard::Mesh mesh, int32_t rank, int32_t world_size,
                      std::shared_ptr<RegistrationBudget> budget)
      : mesh_(std::move(mesh)), rank_(rank), world_size_(world_size), budget_(std::move(budget)) {}

  // Takes one message; `previous` (may be null) is the session's registration. Returns the new one after the
  // last message of its generation, else null. An error drops what came of the generation. INVALID_ARGUMENT:
  // form, duplicates, limits, a generation that is not above the last; OUT_OF_RANGE: past a buffer;
  // NOT_FOUND: a buffer or a removed name that is not registered; RESOURCE_EXHAUSTED: too many shards or
  // boxes, or the budget is spent.
  absl::StatusOr<std::shared_ptr<Registration>> Add(const v1::RegisterRequest& request,
                                                    const std::shared_ptr<const Registration>& previous);

 private:
  struct Memory {
    uint64_t address = 0;
    int64_t size_bytes = 0;
    bool on_gpu = false;
  };

  absl::Status TakeMessage(const v1::RegisterRequest& request, const Registration* previous);
  absl::Status Begin(const v1::RegisterRequest& request, const Registration* previous);
  absl::Status Take(const v1::RegisterRequest& request);
  absl::Status TakeBuffer(const v1::Buffer& buffer);
  absl::Status TakeMemory(const v1::DeviceMemory& memory);
  absl::Status TakeShard(const v1::Shard& shard);
  absl::Status Charge(int64_t bytes);
  void Drop();  // what came of the generation
  absl::Status CheckCovered(uint32_t id, const Memory& buffer) const;
  absl::StatusOr<std::shared_ptr<Registration>> Finish();

  const reshard::Mesh mesh_;
  const int32_t rank_;
  const int32_t world_size_;
  const std::shared_ptr<RegistrationBudget> budget_;

  bool open_ = false;
  uint64_t generation_ = 0;
  std::map<uint32_t, Memory> buffers_;
  std::map<uint64_t, DeclaredMemory> gpu_memory_;  // by address
  std::vector<reshard::TensorShard> shards_;  // `buffer` is the client's id here
  absl::flat_hash_map<std::string, size_t> by_name_;
  absl::flat_hash_set<std::string> fresh_;  // named by this generation
  size_t boxes_ = 0;
  RegistrationCharge charge_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_REGISTRATION_H_
