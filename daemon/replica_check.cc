#include "daemon/replica_check.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/box_mover.h"
#include "reshard/dtype.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kBatchBytes = 16 << 20;  // of samples held at once, for each holder

using Sample = std::pair<int64_t, int64_t>;  // bytes [begin, end) of a packed box

std::vector<Sample> SamplesOf(int64_t size_bytes) {
  if (size_bytes <= kReplicaSampleBytes) return {{0, size_bytes}};
  constexpr int64_t kThird = kReplicaSampleBytes / 3;
  const int64_t middle = (size_bytes - kThird) / 2;
  if (middle <= kThird || middle + kThird >= size_bytes - kThird) return {{0, kReplicaSampleBytes}};
  return {{0, kThird}, {middle, middle + kThird}, {size_bytes - kThird, size_bytes}};
}

int64_t SampleBytes(const reshard::ReplicaSet& set) {
  int64_t bytes = 0;
  for (const auto& [begin, end] : SamplesOf(set.items.front().size_bytes)) bytes += end - begin;
  return bytes;
}

// The samples of some replicas as one rank holds them, those that it does not hold left out.
class HolderSamples {
 public:
  HolderSamples(const RankMemory& memory, absl::Span<const reshard::ReplicaSet> sets)
      : memory_(memory), sets_(sets), places_(sets.size(), -1) {}

  absl::Status Read(Cancellation& cancel) {
    int64_t total_bytes = 0;
    for (size_t i = 0; i < sets_.size(); ++i) {
      if (ItemOf(sets_[i]) == nullptr) continue;
      places_[i] = total_bytes;
      total_bytes += SampleBytes(sets_[i]);
    }
    bytes_.resize(total_bytes);
    BoxMover mover(*memory_.port, Direction::kFromTrainer, cancel);
    for (size_t i = 0; i < sets_.size(); ++i) {
      if (places_[i] < 0) continue;
      if (absl::Status status = ReadSet(mover, *ItemOf(sets_[i]), bytes_.data() + places_[i]); !status.ok())
        return status;
    }
    return mover.Flush();
  }

  const std::byte* of(size_t set) const { return places_[set] < 0 ? nullptr : bytes_.data() + places_[set]; }
  int32_t rank() const { return memory_.shards->rank; }

 private:
  const reshard::WriteItem* ItemOf(const reshard::ReplicaSet& set) const {
    const auto found = std::find_if(set.items.begin(), set.items.end(),
                                    [this](const reshard::WriteItem& item) { return item.rank == rank(); });
    return found == set.items.end() ? nullptr : &*found;
  }

  absl::Status ReadSet(BoxMover& mover, const reshard::WriteItem& item, std::byte* at) const {
    const reshard::TensorShard& shard = memory_.shards->shards[item.shard];
    const TrainerBox trainer{&shard.boxes[item.box], memory_.buffer_addresses[shard.buffer],
                             reshard::SizeBytes(shard.meta.dtype)};
    for (const auto& [begin, end] : SamplesOf(item.size_bytes)) {
      if (absl::Status status = mover.MoveBytes(begin, end, trainer, at); !status.ok()) return status;
      at += end - begin;
    }
    return absl::OkStatus();
  }

  const RankMemory& memory_;
  const absl::Span<const reshard::ReplicaSet> sets_;
  std::vector<int64_t> places_;  // by set: where its sample lies in bytes_, or -1
  std::vector<std::byte> bytes_;
};

absl::Status Mismatch(const RankMemory& memory, const reshard::ReplicaSet& set, int32_t a, int32_t b) {
  std::string fqn = "?";
  for (const reshard::WriteItem& item : set.items) {
    if (item.rank == memory.shards->rank) fqn = memory.shards->shards[item.shard].meta.fqn;
  }
  return absl::FailedPreconditionError(
      absl::StrCat(kReplicaMismatch, ": ", fqn, " is declared a replica on ranks ", a, " and ", b,
                   " but differs between them; make the copies equal, or do not declare them replicas"));
}

absl::Status CheckBatch(absl::Span<const reshard::ReplicaSet> sets, absl::Span<const RankMemory> ranks,
                        Cancellation& cancel) {
  std::vector<int32_t> first_rank(sets.size(), -1);
  std::vector<std::vector<std::byte>> first(sets.size());
  for (const RankMemory& memory : ranks) {
    HolderSamples samples(memory, sets);
    if (absl::Status status = samples.Read(cancel); !status.ok()) return status;
    for (size_t i = 0; i < sets.size(); ++i) {
      const std::byte* mine = samples.of(i);
      if (mine == nullptr) continue;
      if (first_rank[i] < 0) {
        first_rank[i] = samples.rank();
        first[i].assign(mine, mine + SampleBytes(sets[i]));
      } else if (std::memcmp(first[i].data(), mine, first[i].size()) != 0) {
        return Mismatch(memory, sets[i], first_rank[i], samples.rank());
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckReplicas(const reshard::SavePlan& plan, absl::Span<const RankMemory> ranks,
                           Cancellation& cancel) {
  const absl::Span<const reshard::ReplicaSet> sets = plan.replicas;
  size_t begin = 0;
  while (begin < sets.size()) {
    size_t end = begin;
    for (int64_t bytes = 0; end < sets.size() && bytes < kBatchBytes; ++end) bytes += SampleBytes(sets[end]);
    if (absl::Status status = CheckBatch(sets.subspan(begin, end - begin), ranks, cancel); !status.ok())
      return status;
    begin = end;
  }
  return absl::OkStatus();
}

}  // namespace keepstep::daemon
