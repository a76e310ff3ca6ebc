// Random worlds for the property tests: tensors, and how the ranks of a world hold them in memory. The same
// seed gives the same world on every machine.

#ifndef KEEPSTEP_RESHARD_RANDOM_WORLD_H_
#define KEEPSTEP_RESHARD_RANDOM_WORLD_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "reshard/box.h"
#include "reshard/check.h"
#include "reshard/dtype.h"
#include "reshard/layout.h"
#include "reshard/tensor.h"

namespace keepstep::reshard {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  int64_t Below(int64_t limit) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(limit)); }
  int64_t Between(int64_t low, int64_t high) { return low + Below(high - low + 1); }
  bool OneIn(int64_t n) { return Below(n) == 0; }

  template <typename Items>
  void Shuffle(Items& items) {
    for (size_t i = items.size(); i > 1; --i)
      std::swap(items[i - 1], items[static_cast<size_t>(Below(static_cast<int64_t>(i)))]);
  }

  // `parts` + 1 ascending numbers from 0 to `size`.
  std::vector<int64_t> Cuts(int64_t size, int64_t parts) {
    std::vector<int64_t> cuts = {0, size};
    for (int64_t i = 1; i < parts; ++i) cuts.push_back(Between(0, size));
    std::sort(cuts.begin(), cuts.end());
    return cuts;
  }

 private:
  std::mt19937_64 engine_;
};

struct NamedTensor {
  TensorMeta meta;
  uint64_t salt = 0;
};

// Ranks and their memories: shard i of a rank lies in memory[rank][shards[i].buffer].
struct World {
  Mesh mesh;
  std::vector<RankShards> ranks;
  std::vector<std::vector<int64_t>> buffer_bytes;
};

class WorldMaker {
 public:
  explicit WorldMaker(uint64_t seed) : random_(seed) {}

  Random& random() { return random_; }

  std::vector<NamedTensor> Tensors() {
    std::vector<NamedTensor> tensors(static_cast<size_t>(random_.Between(1, 3)));
    for (size_t i = 0; i < tensors.size(); ++i) {
      TensorMeta& meta = tensors[i].meta;
      meta.fqn = absl::StrCat("layers/", i, ".weight");
      meta.dtype = static_cast<DType>(random_.Below(kNumDTypes));
      meta.component = static_cast<Component>(random_.Below(3));
      tensors[i].salt = static_cast<uint64_t>(random_.Below(1 << 20));
      int64_t elements = 1;
      for (int64_t d = random_.Below(6); d > 0; --d) {
        const int64_t extent = random_.OneIn(24) ? 0 : random_.Between(1, elements > 200 ? 3 : 9);
        elements *= std::max<int64_t>(extent, 1);
        meta.shape.push_back(extent);
      }
    }
    return tensors;
  }

  World Make(const std::vector<NamedTensor>& tensors) {
    World world;
    int64_t size = 1;
    for (int64_t d = random_.Between(1, 4); d > 0; --d) {
      world.mesh.names.push_back(absl::StrCat("mesh", d));
      world.mesh.sizes.push_back(random_.Between(1, size > 4 ? 2 : 3));
      size *= world.mesh.sizes.back();
    }
    world.ranks.resize(static_cast<size_t>(size));
    world.buffer_bytes.resize(static_cast<size_t>(size));
    for (int32_t r = 0; r < size; ++r) world.ranks[static_cast<size_t>(r)].rank = r;
    for (const NamedTensor& tensor : tensors) {
      switch (random_.Below(4)) {
        case 0:
          AddFlat(tensor.meta, world);
          break;
        case 1:
          AddFused(tensor.meta, world);
          break;
        default:
          AddPlaced(tensor.meta, world);
      }
    }
    return world;
  }

 private:
  TensorShard& AddShard(const TensorMeta& meta, World& world, size_t rank) {
    std::vector<TensorShard>& shards = world.ranks[rank].shards;
    shards.emplace_back();
    shards.back().meta = meta;
    shards.back().buffer = static_cast<uint32_t>(world.buffer_bytes[rank].size());
    shards.back().group = static_cast<uint32_t>(random_.Below(2));
    world.buffer_bytes[rank].push_back(random_.Below(3) * 5);
    return shards.back();
  }

  // Strides in a random order of dimensions, with random gaps and directions; takes the room from the end of
  // the buffer.
  LocalBox Allocate(const Box& box, int64_t item_size_bytes, int64_t& buffer_bytes) {
    LocalBox local{box, buffer_bytes, Dims(box.shape.size())};
    std::vector<size_t> order(box.shape.size());
    std::iota(order.begin(), order.end(), 0);
    std::reverse(order.begin(), order.end());
    if (random_.OneIn(2)) random_.Shuffle(order);
    int64_t stride = item_size_bytes;
    for (const size_t d : order) {
      if (random_.OneIn(6)) stride += item_size_bytes;
      const int64_t extent = std::max<int64_t>(box.shape[d], 1);
      local.strides_bytes[d] = stride;
      if (random_.OneIn(8)) {
        local.strides_bytes[d] = -stride;
        local.offset_bytes += (extent - 1) * stride;
      }
      stride *= extent;
    }
    buffer_bytes += stride + random_.Below(2) * 3;
    return local;
  }

  // DTensor placements: shard, strided shard and replicate over the mesh; one local tensor per rank.
  void AddPlaced(const TensorMeta& meta, World& world) {
    std::vector<Placement> placements;
    for (size_t m = 0; m < world.mesh.sizes.size(); ++m) {
      const int32_t dim = meta.shape.empty()
                              ? 0
                              : static_cast<int32_t>(random_.Below(static_cast<int64_t>(meta.shape.size())));
      const int64_t kind = meta.shape.empty() ? 0 : random_.Below(4);
      placements.push_back(kind == 0   ? Replicate()
                           : kind == 1 ? StridedShard(dim, random_.Between(1, 4))
                                       : Shard(dim));
    }
    const bool module_buffer = random_.OneIn(5);
    for (size_t r = 0; r < world.ranks.size(); ++r) {
      absl::StatusOr<PlacedShard> placed =
          ShardOf(world.mesh, placements, meta.shape, static_cast<int32_t>(r));
      KEEPSTEP_CHECK(placed.ok(), "the generator makes valid layouts only");
      TensorShard& shard = AddShard(meta, world, r);
      shard.module_buffer = module_buffer;
      shard.replica_ranks = placed->replica_ranks;
      const LocalBox whole =
          Allocate(WholeBox(placed->local_shape), SizeBytes(meta.dtype), world.buffer_bytes[r].back());
      shard.boxes = PlaceInBuffer(*placed, whole.offset_bytes, whole.strides_bytes);
      if (random_.OneIn(2)) random_.Shuffle(shard.boxes);
    }
  }

  // Flat ranges over all ranks: of the whole tensor, or of the boxes that slicing one dimension gives.
  void AddFlat(const TensorMeta& meta, World& world) {
    const int64_t ranks = static_cast<int64_t>(world.ranks.size());
    std::vector<Box> parts = {WholeBox(meta.shape)};
    if (!meta.shape.empty() && !IsEmpty(parts[0]) && ranks % 2 == 0) {
      const size_t d = static_cast<size_t>(random_.Below(static_cast<int64_t>(meta.shape.size())));
      parts.push_back(parts[0]);
      parts[0].shape[d] = random_.Between(0, meta.shape[d]);
      parts[1].origin[d] = parts[0].shape[d];
      parts[1].shape[d] = meta.shape[d] - parts[0].shape[d];
    }
    const int64_t ranks_per_part = ranks / static_cast<int64_t>(parts.size());
    for (size_t p = 0; p < parts.size(); ++p) {
      const std::vector<int64_t> cuts = random_.Cuts(NumElements(parts[p]), ranks_per_part);
      for (int64_t i = 0; i < ranks_per_part; ++i) {
        const size_t r = p * static_cast<size_t>(ranks_per_part) + static_cast<size_t>(i);
        TensorShard& shard = AddShard(meta, world, r);
        int64_t& bytes = world.buffer_bytes[r].back();
        const int64_t begin = cuts[static_cast<size_t>(i)];
        const int64_t end = cuts[static_cast<size_t>(i) + 1];
        shard.boxes = FlatShardBoxes(parts[p], begin, end, SizeBytes(meta.dtype), bytes);
        bytes += (end - begin) * SizeBytes(meta.dtype);
      }
    }
  }

  // A random grid whose cells go to random ranks: shards of several boxes, each somewhere else in the buffer.
  void AddFused(const TensorMeta& meta, World& world) {
    std::vector<Box> cells = {WholeBox(meta.shape)};
    for (size_t d = 0; d < meta.shape.size(); ++d) {
      const std::vector<int64_t> cuts = random_.Cuts(meta.shape[d], random_.Between(1, 3));
      std::vector<Box> next;
      for (const Box& cell : cells) {
        for (size_t i = 0; i + 1 < cuts.size(); ++i) {
          next.push_back(cell);
          next.back().origin[d] = cuts[i];
          next.back().shape[d] = cuts[i + 1] - cuts[i];
        }
      }
      cells = std::move(next);
    }
    random_.Shuffle(cells);
    std::vector<TensorShard*> shards;
    for (size_t r = 0; r < world.ranks.size(); ++r) shards.push_back(&AddShard(meta, world, r));
    for (const Box& cell : cells) {
      const size_t r = static_cast<size_t>(random_.Below(static_cast<int64_t>(world.ranks.size())));
      shards[r]->boxes.push_back(Allocate(cell, SizeBytes(meta.dtype), world.buffer_bytes[r].back()));
    }
  }

  Random random_;
};

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_RANDOM_WORLD_H_
