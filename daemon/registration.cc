#include "daemon/registration.h"

#include <iterator>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/error.h"
#include "proto/convert.h"
#include "reshard/fingerprint.h"

namespace keepstep::daemon {
namespace {

absl::Status Invalid(absl::string_view reason, absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, reason, message, "register");
}

// With what the containers add; a little more than is measured (docs/api.md).
constexpr int64_t kBufferBytes = 128;
constexpr int64_t kGpuMemoryBytes = 512;
constexpr size_t kMaxGpuMemory = 1 << 16;  // a terabyte in the smallest pieces that allocators take

int64_t MemoryOf(const reshard::TensorShard& shard) {
  int64_t bytes = 512 + 3 * static_cast<int64_t>(shard.meta.fqn.size()) +  // two sets of names beside it
                  8 * static_cast<int64_t>(shard.meta.shape.size()) +
                  4 * static_cast<int64_t>(shard.replica_ranks.size());
  for (const reshard::LocalBox& box : shard.boxes)
    bytes += 128 + 24 * static_cast<int64_t>(box.strides_bytes.size());
  return bytes;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Registration>> RegistrationBuilder::Add(
    const v1::RegisterRequest& request, const std::shared_ptr<const Registration>& previous) {
  if (absl::Status status = TakeMessage(request, previous.get()); !status.ok()) {
    Drop();
    return status;
  }
  if (request.more()) return std::shared_ptr<Registration>();
  auto done = Finish();
  Drop();
  return done;
}

absl::Status RegistrationBuilder::TakeMessage(const v1::RegisterRequest& request,
                                              const Registration* previous) {
  if (!open_ || request.generation() != generation_) {
    if (absl::Status status = Begin(request, previous); !status.ok()) return status;
  }
  return Take(request);
}

void RegistrationBuilder::Drop() {
  open_ = false;
  buffers_.clear();
  gpu_memory_.clear();
  shards_ = {};
  by_name_ = {};
  fresh_ = {};
  boxes_ = 0;
  charge_ = RegistrationCharge();
}

absl::Status RegistrationBuilder::Charge(int64_t bytes) {
  if (charge_.Add(bytes)) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kResourceExhausted, "REGISTRATIONS_TOO_LARGE",
      absl::StrCat("The registrations of all sessions take ", budget_->used_bytes(), " of ",
                   budget_->limit_bytes(),
                   " bytes of the daemon's memory. Register fewer, larger tensors, or end sessions."),
      "register");
}

absl::Status RegistrationBuilder::Begin(const v1::RegisterRequest& request, const Registration* previous) {
  const uint64_t last = previous == nullptr ? 0 : previous->generation;
  if (request.generation() <= last) {
    return Invalid("BAD_GENERATION", absl::StrCat("Generation ", request.generation(), " is not above ", last,
                                                  ", the current one."));
  }
  Drop();
  open_ = true;
  generation_ = request.generation();
  charge_ = RegistrationCharge(budget_);
  if (!request.incremental() || previous == nullptr) return absl::OkStatus();
  int64_t bytes = static_cast<int64_t>(previous->addresses.size()) * kBufferBytes;
  for (const reshard::TensorShard& shard : previous->shards->shards) bytes += MemoryOf(shard);
  if (absl::Status status = Charge(bytes); !status.ok()) return status;
  for (size_t i = 0; i < previous->addresses.size(); ++i) {
    buffers_[previous->buffer_ids[i]] = {previous->addresses[i], previous->sizes_bytes[i], previous->on_gpu[i]};
  }
  for (const DeclaredMemory& memory : previous->gpu_memory) gpu_memory_[memory.address] = memory;
  shards_ = previous->shards->shards;
  for (size_t i = 0; i < shards_.size(); ++i) {
    shards_[i].buffer = previous->buffer_ids[shards_[i].buffer];
    by_name_[shards_[i].meta.fqn] = i;
    boxes_ += shards_[i].boxes.size();
  }
  return absl::OkStatus();
}

absl::Status RegistrationBuilder::Take(const v1::RegisterRequest& request) {
  for (const std::string& fqn : request.removed_fqns()) {
    auto found = by_name_.find(fqn);
    if (found == by_name_.end()) {
      return MakeError(absl::StatusCode::kNotFound, "NOT_REGISTERED",
                       absl::StrCat("Tensor '", fqn, "' is not registered, so it cannot be removed."),
                       "register");
    }
    const size_t hole = found->second;
    by_name_.erase(found);
    boxes_ -= shards_[hole].boxes.size();
    if (hole + 1 != shards_.size()) {
      shards_[hole] = std::move(shards_.back());
      by_name_[shards_[hole].meta.fqn] = hole;
    }
    shards_.pop_back();
  }
  for (const v1::DeviceMemory& memory : request.memory()) {
    if (absl::Status status = TakeMemory(memory); !status.ok()) return status;
  }
  for (const v1::Buffer& buffer : request.buffers()) {
    if (absl::Status status = TakeBuffer(buffer); !status.ok()) return status;
  }
  for (const v1::Shard& shard : request.shards()) {
    if (absl::Status status = TakeShard(shard); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status RegistrationBuilder::TakeBuffer(const v1::Buffer& buffer) {
  if (!buffer.has_host() && !buffer.has_device())
    return Invalid("BUFFER_KIND", absl::StrCat("Buffer ", buffer.id(), " says no kind of memory."));
  const bool on_gpu = buffer.has_device();
  const uint64_t address = on_gpu ? buffer.device().address() : buffer.host().address();
  const int64_t size = on_gpu ? buffer.device().size_bytes() : buffer.host().size_bytes();
  if (size < 0 || (size > 0 && address == 0) ||
      static_cast<uint64_t>(size) > std::numeric_limits<uint64_t>::max() - address) {
    return Invalid("BUFFER_RANGE",
                   absl::StrCat("Buffer ", buffer.id(), ": ", size, " bytes at ", address, " is no memory."));
  }
  if (buffers_.size() >= kMaxShards) {
    return MakeError(absl::StatusCode::kResourceExhausted, "TOO_MANY_BUFFERS",
                     absl::StrCat("More than ", kMaxShards, " buffers; register larger ones."), "register");
  }
  if (absl::Status status = Charge(kBufferBytes); !status.ok()) return status;
  buffers_[buffer.id()] = {address, size, on_gpu};
  return absl::OkStatus();
}

absl::Status RegistrationBuilder::TakeMemory(const v1::DeviceMemory& memory) {
  auto declared = DeclaredMemoryFrom(memory);
  if (!declared.ok()) return declared.status();
  if (gpu_memory_.size() >= kMaxGpuMemory) {
    return MakeError(absl::StatusCode::kResourceExhausted, "TOO_MANY_BUFFERS",
                     absl::StrCat("More than ", kMaxGpuMemory, " allocations of GPU memory."), "register");
  }
  if (absl::Status status = Charge(kGpuMemoryBytes); !status.ok()) return status;
  gpu_memory_[declared->address] = *std::move(declared);
  return absl::OkStatus();
}

absl::Status RegistrationBuilder::CheckCovered(uint32_t id, const Memory& buffer) const {
  uint64_t at = buffer.address;
  const uint64_t end = buffer.address + static_cast<uint64_t>(buffer.size_bytes);
  while (at < end) {
    const auto after = gpu_memory_.upper_bound(at);
    if (after != gpu_memory_.begin()) {
      const DeclaredMemory& memory = std::prev(after)->second;
      if (const uint64_t past = memory.address + static_cast<uint64_t>(memory.size_bytes); past > at) {
        at = past;
        continue;
      }
    }
    return MakeError(absl::StatusCode::kOutOfRange, "PAST_THE_ALLOCATION",
                     absl::StrCat("Buffer ", id, ": byte ", at - buffer.address,
                                  " lies in no allocation of GPU memory that was registered."),
                     "register");
  }
  return absl::OkStatus();
}

absl::Status RegistrationBuilder::TakeShard(const v1::Shard& from) {
  auto shard = proto::ShardFrom(from, mesh_, rank_, world_size_);
  if (!shard.ok()) return Because(shard.status(), "BAD_SHARD", "register");
  if (absl::Status status = Charge(MemoryOf(*shard)); !status.ok()) return status;
  if (!fresh_.insert(shard->meta.fqn).second) {
    return Invalid("DUPLICATE_TENSOR", absl::StrCat("Tensor '", shard->meta.fqn,
                                                    "' is registered twice; names are unique in a rank."));
  }
  auto found = by_name_.find(shard->meta.fqn);
  boxes_ += shard->boxes.size();
  if (found != by_name_.end()) boxes_ -= shards_[found->second].boxes.size();
  if (shards_.size() >= kMaxShards || boxes_ > kMaxBoxes) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, "TOO_MANY_TENSORS",
        absl::StrCat("A rank registers at most ", kMaxShards, " tensors of together ", kMaxBoxes, " boxes."),
        "register");
  }
  if (found != by_name_.end()) {
    shards_[found->second] = *std::move(shard);
  } else {
    by_name_[shard->meta.fqn] = shards_.size();
    shards_.push_back(*std::move(shard));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Registration>> RegistrationBuilder::Finish() {
  auto done = std::make_shared<Registration>();
  done->generation = generation_;
  auto rank = std::make_shared<reshard::RankShards>();
  rank->rank = rank_;
  rank->shards = std::move(shards_);
  for (const auto& [address, memory] : gpu_memory_) {
    const DeclaredMemory* before = done->gpu_memory.empty() ? nullptr : &done->gpu_memory.back();
    if (before != nullptr && before->address + static_cast<uint64_t>(before->size_bytes) > address)
      return Invalid("BUFFER_RANGE", "Two allocations of GPU memory lie over each other.");
    done->gpu_memory.push_back(memory);
  }
  std::map<uint32_t, uint32_t> index_of;  // buffers that no shard uses are dropped
  for (reshard::TensorShard& shard : rank->shards) {
    auto memory = buffers_.find(shard.buffer);
    if (memory == buffers_.end()) {
      return MakeError(absl::StatusCode::kNotFound, "UNKNOWN_BUFFER",
                       absl::StrCat("Tensor '", shard.meta.fqn, "' lies in buffer ", shard.buffer,
                                    ", which is not registered."),
                       "register");
    }
    absl::Status status = reshard::ValidateShard(shard, memory->second.size_bytes);
    if (!status.ok())
      return Because(status, absl::IsOutOfRange(status) ? "PAST_THE_BUFFER" : "BAD_SHARD", "register");
    for (const reshard::LocalBox& box : shard.boxes) {
      const int64_t bytes = reshard::NumElements(box.box) * reshard::SizeBytes(shard.meta.dtype);
      // Strides of zero make much of little memory, so the buffers' sizes are no limit.
      if (bytes > kMaxRankBytes - done->total_bytes) {
        return Invalid("TOO_LARGE", absl::StrCat("Tensor '", shard.meta.fqn, "': a rank registers at most ",
                                                 kMaxRankBytes, " bytes."));
      }
      done->total_bytes += bytes;
    }
    auto [slot, inserted] = index_of.try_emplace(shard.buffer, static_cast<uint32_t>(done->addresses.size()));
    if (inserted) {
      if (memory->second.on_gpu) {
        if (absl::Status covered = CheckCovered(shard.buffer, memory->second); !covered.ok()) return covered;
      }
      done->addresses.push_back(memory->second.address);
      done->on_gpu.push_back(memory->second.on_gpu);
      done->sizes_bytes.push_back(memory->second.size_bytes);
      done->buffer_ids.push_back(shard.buffer);
    }
    shard.buffer = slot->second;
  }
  done->fingerprint = reshard::Fingerprint(*rank);
  done->shards = std::move(rank);
  done->charge = std::move(charge_);
  return done;
}

}  // namespace keepstep::daemon
