// Resharding is exact: whatever layout saved a tensor, every other layout gets every byte of it.
//
// A case makes random tensors and a random world that holds them (random_world.h), plans the save, packs the
// blobs, plans the load into another random world, and compares all memory of it, padding included, with the
// oracle's (oracle.h). Then it breaks the source's layout and expects to be refused.
//
// KEEPSTEP_PROPERTY_CASES sets the number of cases, KEEPSTEP_PROPERTY_SEED the first seed; a failure prints
// its seed.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "reshard/box.h"
#include "reshard/dtype.h"
#include "reshard/load_plan.h"
#include "reshard/oracle.h"
#include "reshard/random_world.h"
#include "reshard/save_plan.h"
#include "reshard/strided.h"
#include "reshard/tensor.h"

namespace keepstep::reshard {
namespace {

using oracle::Memory;

constexpr std::byte kUntouched{0xa5};

struct StoredExtent {
  size_t blob = 0;
  int64_t offset_bytes = 0;
};

// What a save leaves behind: packed blobs, and an index of what lies where.
struct Storage {
  std::vector<Memory> blobs;
  std::vector<StoredExtent> extents;
  std::map<std::string, StoredTensor> tensors;
};

int64_t Number(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoll(text, nullptr, 10);
}

// Tied weights: one of the tensors again under another name, in the same memory on every rank.
void TieRandomly(std::vector<NamedTensor>& tensors, World& world, Random& random) {
  if (!random.OneIn(3)) return;
  NamedTensor tied = tensors[static_cast<size_t>(random.Below(static_cast<int64_t>(tensors.size())))];
  const std::string original = tied.meta.fqn;
  tied.meta.fqn = random.OneIn(2) ? "a.tied" : "z.tied";
  tensors.push_back(tied);
  for (RankShards& rank : world.ranks) {
    std::vector<TensorShard> copies;
    for (const TensorShard& shard : rank.shards) {
      if (shard.meta.fqn == original) copies.push_back(shard);
    }
    for (TensorShard& copy : copies) {
      copy.meta.fqn = tied.meta.fqn;
      rank.shards.push_back(copy);
    }
  }
}

std::vector<Memory> MemoryOf(const World& world, size_t rank, bool with_values,
                             const std::vector<NamedTensor>& tensors) {
  std::vector<Memory> memory;
  for (const int64_t bytes : world.buffer_bytes[rank])
    memory.emplace_back(static_cast<size_t>(bytes), kUntouched);
  if (!with_values) return memory;
  for (const TensorShard& shard : world.ranks[rank].shards) {
    for (const NamedTensor& tensor : tensors) {
      if (tensor.meta.fqn != shard.meta.fqn) continue;
      for (const LocalBox& local : shard.boxes) {
        oracle::WriteElements(local, shard.meta.shape, SizeBytes(shard.meta.dtype), tensor.salt,
                              memory[shard.buffer]);
      }
    }
  }
  return memory;
}

void StoreItem(const RankShards& rank, const WriteItem& item, const std::vector<Memory>& memory,
               Storage& storage) {
  const TensorShard& shard = rank.shards[item.shard];
  const LocalBox& local = shard.boxes[item.box];
  const int64_t item_size_bytes = SizeBytes(shard.meta.dtype);
  Memory& blob = storage.blobs.back();
  const int64_t offset_bytes = static_cast<int64_t>(blob.size());
  ASSERT_EQ(item.size_bytes, NumElements(local.box) * item_size_bytes);
  blob.resize(blob.size() + static_cast<size_t>(item.size_bytes));
  const LocalBox packed = RowMajorLayout(local.box, item_size_bytes, offset_bytes);
  CopyRuns(MakeRunNest(local.box, local, packed, item_size_bytes), memory[shard.buffer].data(), blob.data());

  std::vector<uint32_t> names = item.alias_shards;
  names.push_back(item.shard);
  for (const uint32_t name : names) {
    StoredTensor& stored = storage.tensors[rank.shards[name].meta.fqn];
    stored.meta = rank.shards[name].meta;
    stored.boxes.push_back({local.box, static_cast<uint32_t>(storage.extents.size())});
  }
  storage.extents.push_back({storage.blobs.size() - 1, offset_bytes});
}

void Save(const World& world, const std::vector<NamedTensor>& tensors, Storage& storage) {
  for (size_t r = 0; r < world.ranks.size(); ++r) {
    for (const TensorShard& shard : world.ranks[r].shards) {
      ASSERT_TRUE(ValidateShard(shard, world.buffer_bytes[r][shard.buffer]).ok());
    }
  }
  const absl::StatusOr<SavePlan> plan = MakeSavePlan(world.ranks);
  ASSERT_TRUE(plan.ok()) << plan.status();
  for (const BlobPlan& blob : plan->blobs) {
    const size_t rank = static_cast<size_t>(blob.rank);
    const std::vector<Memory> memory = MemoryOf(world, rank, true, tensors);
    storage.blobs.emplace_back();
    for (const WriteItem& item : blob.items)
      ASSERT_NO_FATAL_FAILURE(StoreItem(world.ranks[rank], item, memory, storage));
    ASSERT_EQ(blob.size_bytes, static_cast<int64_t>(storage.blobs.back().size()));
  }
  for (const NamedTensor& tensor : tensors) {
    ASSERT_EQ(storage.tensors.count(tensor.meta.fqn), 1u) << tensor.meta.fqn;
    oracle::Counter counter(tensor.meta.shape);
    for (const StoredBox& stored : storage.tensors[tensor.meta.fqn].boxes) counter.Add(stored.box);
    ASSERT_TRUE(counter.AllAre(1)) << tensor.meta.fqn << " is not stored exactly once";
  }
}

void LoadRank(const World& world, size_t rank, const std::vector<NamedTensor>& tensors,
              const Storage& storage) {
  const std::vector<TensorShard>& wanted = world.ranks[rank].shards;
  const absl::StatusOr<LoadPlan> plan =
      MakeLoadPlan(wanted, [&](absl::string_view fqn) -> const StoredTensor* {
        const auto at = storage.tensors.find(std::string(fqn));
        return at == storage.tensors.end() ? nullptr : &at->second;
      });
  ASSERT_TRUE(plan.ok()) << plan.status();
  std::vector<Memory> memory = MemoryOf(world, rank, false, tensors);
  for (const ReadItem& item : plan->items) {
    const TensorShard& shard = wanted[item.shard];
    const StoredExtent& extent = storage.extents[item.extent];
    const LocalBox packed = RowMajorLayout(*item.stored, SizeBytes(shard.meta.dtype), extent.offset_bytes);
    CopyRuns(MakeRunNest(item.region, packed, shard.boxes[item.box], SizeBytes(shard.meta.dtype)),
             storage.blobs[extent.blob].data(), memory[shard.buffer].data());
  }
  ASSERT_EQ(memory, MemoryOf(world, rank, true, tensors)) << "rank " << rank << " differs from the oracle";
}

// Any box with elements: its shard without it leaves a hole, the same box on a rank that declares nothing is
// a lie.
void ExpectBrokenIsRefused(World world, Random& random) {
  const size_t rank = static_cast<size_t>(random.Below(static_cast<int64_t>(world.ranks.size())));
  for (TensorShard& shard : world.ranks[rank].shards) {
    for (size_t b = 0; b < shard.boxes.size(); ++b) {
      if (IsEmpty(shard.boxes[b].box)) continue;
      if (random.OneIn(2)) {
        shard.boxes.erase(shard.boxes.begin() + static_cast<ptrdiff_t>(b));
        EXPECT_EQ(MakeSavePlan(world.ranks).status().code(), absl::StatusCode::kFailedPrecondition);
      } else {
        TensorShard liar = shard;
        liar.replica_ranks.clear();
        const int32_t new_rank = static_cast<int32_t>(world.ranks.size());
        world.ranks.push_back(RankShards{new_rank, {liar}});
        EXPECT_EQ(MakeSavePlan(world.ranks).status().code(), absl::StatusCode::kInvalidArgument);
      }
      return;
    }
  }
}

void RunCase(uint64_t seed) {
  WorldMaker maker(seed);
  std::vector<NamedTensor> tensors = maker.Tensors();
  World source = maker.Make(tensors);
  const World destination = maker.Make(tensors);
  TieRandomly(tensors, source, maker.random());
  Storage storage;
  ASSERT_NO_FATAL_FAILURE(Save(source, tensors, storage));
  for (size_t rank = 0; rank < destination.ranks.size(); ++rank) {
    ASSERT_NO_FATAL_FAILURE(LoadRank(destination, rank, tensors, storage));
  }
  ExpectBrokenIsRefused(source, maker.random());
}

TEST(Resharding, IsExactForRandomLayouts) {
  const int64_t cases = Number("KEEPSTEP_PROPERTY_CASES", 2000);
  const uint64_t first_seed = static_cast<uint64_t>(Number("KEEPSTEP_PROPERTY_SEED", 1));
  int64_t run = 0;
  for (; run < cases && !HasFailure(); ++run) {
    const uint64_t seed = first_seed + static_cast<uint64_t>(run);
    RunCase(seed);
    if (HasFailure()) {
      std::printf("failing seed: KEEPSTEP_PROPERTY_SEED=%llu KEEPSTEP_PROPERTY_CASES=1\n",
                  static_cast<unsigned long long>(seed));
    }
  }
  std::printf("property cases: %lld run, %s, first seed %llu\n", static_cast<long long>(run),
              HasFailure() ? "the last one failed" : "0 failed", static_cast<unsigned long long>(first_seed));
}

}  // namespace
}  // namespace keepstep::reshard
