// A job in one process for the tests of the pipelines: ranks' memories, a save of all ranks, loads of any
// world.

#ifndef KEEPSTEP_DAEMON_PIPELINE_TEST_JOB_H_
#define KEEPSTEP_DAEMON_PIPELINE_TEST_JOB_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/data_plane.h"
#include "daemon/load_pipeline.h"
#include "daemon/local_port.h"
#include "daemon/part_builder.h"
#include "daemon/save_pipeline.h"
#include "daemon/stored_checkpoint.h"
#include "reshard/check.h"
#include "reshard/oracle.h"
#include "reshard/random_world.h"
#include "reshard/save_plan.h"

namespace keepstep::daemon {

using Salts = std::map<std::string, uint64_t>;  // by tensor

inline Salts SaltsOf(const std::vector<reshard::NamedTensor>& tensors) {
  Salts salts;
  for (const reshard::NamedTensor& tensor : tensors) salts[tensor.meta.fqn] = tensor.salt;
  return salts;
}

// One rank's buffers, zero or with the tensors' true values.
class RankBuffers {
 public:
  RankBuffers(const reshard::World& world, size_t rank)
      : shards_(std::make_shared<reshard::RankShards>(world.ranks[rank])) {
    for (int64_t bytes : world.buffer_bytes[rank]) memory_.emplace_back(bytes + 1);
  }

  void Fill(const Salts& salts) {
    for (const reshard::TensorShard& shard : shards_->shards) {
      for (const reshard::LocalBox& box : shard.boxes) {
        reshard::oracle::WriteElements(box, shard.meta.shape, reshard::SizeBytes(shard.meta.dtype),
                                       salts.at(shard.meta.fqn), memory_[shard.buffer]);
      }
    }
  }

  std::shared_ptr<const reshard::RankShards> shards() const { return shards_; }
  std::vector<uint64_t> addresses() const {
    std::vector<uint64_t> addresses;
    for (const auto& memory : memory_) addresses.push_back(reinterpret_cast<uint64_t>(memory.data()));
    return addresses;
  }
  friend bool operator==(const RankBuffers& a, const RankBuffers& b) { return a.memory_ == b.memory_; }

 private:
  std::shared_ptr<const reshard::RankShards> shards_;
  std::vector<reshard::oracle::Memory> memory_;
};

// Records what one save reports, and waits for its end.
class SaveRecord {
 public:
  SaveCallbacks callbacks() {
    SaveCallbacks callbacks;
    callbacks.group_copied = [this](uint32_t group) {
      std::lock_guard<std::mutex> lock(mutex_);
      KEEPSTEP_CHECK(!copied_ && groups_.insert(group).second,
                     "a group is released once, before all are copied");
      changed_.notify_all();
    };
    callbacks.copied = [this] {
      std::lock_guard<std::mutex> lock(mutex_);
      KEEPSTEP_CHECK(!copied_, "copied once");
      copied_ = true;
    };
    callbacks.flushed = [this](SavedShare share) {
      std::lock_guard<std::mutex> lock(mutex_);
      KEEPSTEP_CHECK(copied_ && !ended_, "flushed between copied and ended");
      flushed_ = true;
      share_ = std::move(share);
    };
    callbacks.failed = [this](std::string stage, absl::Status status) {
      std::lock_guard<std::mutex> lock(mutex_);
      KEEPSTEP_CHECK(!flushed_ && !ended_ && stage_.empty(), "one outcome");
      stage_ = std::move(stage);
      status_ = std::move(status);
    };
    callbacks.ended = [this] {
      std::lock_guard<std::mutex> lock(mutex_);
      KEEPSTEP_CHECK(!ended_, "ended once");
      ended_ = true;
      changed_.notify_all();
    };
    return callbacks;
  }

  void AwaitEnd() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return ended_; });
  }
  void AwaitGroup(uint32_t group) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return groups_.count(group) > 0; });
  }

  // After AwaitEnd.
  const std::set<uint32_t>& groups() const { return groups_; }
  bool copied() const { return copied_; }
  bool flushed() const { return flushed_; }
  const SavedShare& share() const { return share_; }
  const std::string& stage() const { return stage_; }
  const absl::Status& status() const { return status_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<uint32_t> groups_;
  bool copied_ = false, flushed_ = false, ended_ = false;
  SavedShare share_;
  std::string stage_;
  absl::Status status_;
};

class TestJob {
 public:
  TestJob(DataPlane* plane, std::shared_ptr<storage::BlobStore> store)
      : plane_(plane), store_(std::move(store)) {}

  SaveSpec Spec(const RankBuffers& rank, const std::shared_ptr<const reshard::SavePlan>& plan,
                int32_t world_size) {
    SaveSpec spec;
    spec.store = store_;
    spec.directory = *storage::BlobPath::Parse(directory_);
    spec.cache_prefix = "job/";
    spec.world_size = world_size;
    spec.plan = plan;
    spec.shards = rank.shards();
    spec.buffer_addresses = rank.addresses();
    spec.port = port_of_(rank.shards()->rank);
    return spec;
  }

  // Saves every rank at once; the first failure, if any.
  absl::StatusOr<std::shared_ptr<const StoredCheckpoint>> Save(const reshard::World& world,
                                                               const Salts& salts,
                                                               const std::vector<ExtraSource>& extras = {}) {
    auto made = reshard::MakeSavePlan(world.ranks);
    if (!made.ok()) return made.status();
    const auto plan = std::make_shared<const reshard::SavePlan>(*std::move(made));
    const auto size = static_cast<int32_t>(world.ranks.size());
    std::vector<std::unique_ptr<RankBuffers>> buffers;
    std::vector<std::unique_ptr<SaveRecord>> records;
    std::vector<std::unique_ptr<SavePipeline>> saves;
    for (size_t r = 0; r < world.ranks.size(); ++r) {
      buffers.push_back(std::make_unique<RankBuffers>(world, r));
      buffers.back()->Fill(salts);
      records.push_back(std::make_unique<SaveRecord>());
      SaveSpec spec = Spec(*buffers.back(), plan, size);
      if (r == 0) spec.extras = extras;
      saves.push_back(StartSave(*plane_, std::move(spec), records.back()->callbacks()));
    }
    std::vector<const SavedShare*> shares;
    absl::Status failure;
    for (const auto& record : records) {
      record->AwaitEnd();
      if (record->flushed()) shares.push_back(&record->share());
      if (failure.ok()) failure = record->status();
    }
    if (!failure.ok()) return failure;
    return Open({BuildPart(attempt_, 0, 1, shares, v1::Decision())});
  }

  absl::StatusOr<std::shared_ptr<const StoredCheckpoint>> Open(std::vector<v1::Part> parts) {
    return StoredCheckpoint::Make(*storage::BlobPath::Parse(directory_), std::move(parts),
                                  plane_->pool().buffer_bytes());
  }

  absl::StatusOr<LoadStats> Load(std::shared_ptr<const StoredCheckpoint> from, const RankBuffers& rank,
                                 std::shared_ptr<MemoryPort> port = std::make_shared<LocalPort>()) {
    const auto lookup = [&](absl::string_view fqn) { return from->Find(fqn); };
    auto plan = reshard::MakeLoadPlan(rank.shards()->shards, lookup);
    if (!plan.ok()) return plan.status();
    const std::vector<uint64_t> addresses = rank.addresses();
    LoadSpec spec;
    spec.store = store_;
    spec.cache_prefix = "job/";
    spec.from = std::move(from);
    spec.wanted = rank.shards()->shards;
    spec.buffer_addresses = addresses;
    spec.plan = &*plan;
    spec.port = std::move(port);
    Cancellation cancel;
    return RunLoad(*plane_, spec, cancel);
  }

  void set_directory(std::string directory) { directory_ = std::move(directory); }
  void set_ports(std::function<std::shared_ptr<MemoryPort>(int32_t rank)> port_of) { port_of_ = std::move(port_of); }
  const std::shared_ptr<storage::BlobStore>& store() const { return store_; }

 private:
  const std::string attempt_ = "e1-a1-0123456789abcdef";
  std::string directory_ = "000000000001/" + attempt_;
  DataPlane* const plane_;
  const std::shared_ptr<storage::BlobStore> store_;
  std::function<std::shared_ptr<MemoryPort>(int32_t)> port_of_ = [](int32_t) { return std::make_shared<LocalPort>(); };
};

inline std::unique_ptr<DataPlane> StartTestPlane(int64_t buffers,
                                                 int64_t buffer_bytes = MinChunkBufferBytes()) {
  DataPlaneSpec spec;
  spec.pool.buffer_bytes = buffer_bytes;
  spec.pool.limit_bytes = buffers * buffer_bytes;
  spec.pool.initial_bytes = 0;
  spec.copy_workers = 2;
  auto plane = DataPlane::Start(spec);
  KEEPSTEP_CHECK(plane.ok(), "the test's plane starts");
  return *std::move(plane);
}

// A world of tensors of several MiB whose extents start at odd offsets: `ranks` ranks that share rows or
// columns; one tensor lies transposed in memory.
inline std::vector<reshard::NamedTensor> LargeTensors() {
  using reshard::Component;
  using reshard::DType;
  return {{{"a.odd", DType::kU8, {1234567}, Component::kModel}, 1},
          {{"b.weight", DType::kF32, {900, 1111}, Component::kModel}, 2},
          {{"c.scalar", DType::kI64, {}, Component::kModel}, 3},
          {{"d.weight", DType::kBF16, {1200, 1501}, Component::kModel}, 4},
          {{"e.empty", DType::kF32, {0, 7}, Component::kModel}, 5},
          {{"b.moment", DType::kF32, {900, 1111}, Component::kOptimizer}, 6},
          {{"z.state", DType::kU8, {3}, Component::kExtra}, 7}};
}

inline reshard::World LargeWorld(int64_t ranks, bool by_columns, bool transposed) {
  reshard::World world;
  world.ranks.resize(ranks);
  world.buffer_bytes.resize(ranks);
  uint32_t group = 0;
  for (const reshard::NamedTensor& tensor : LargeTensors()) {
    const reshard::Dims& shape = tensor.meta.shape;
    const size_t dim = by_columns && shape.size() > 1 ? 1 : 0;
    const int64_t item = reshard::SizeBytes(tensor.meta.dtype);
    for (int64_t r = 0; r < ranks; ++r) {
      world.ranks[r].rank = static_cast<int32_t>(r);
      reshard::Box box = reshard::WholeBox(shape);
      if (!shape.empty()) {
        box.origin[dim] = shape[dim] * r / ranks;
        box.shape[dim] = shape[dim] * (r + 1) / ranks - box.origin[dim];
      } else if (r > 0) {
        continue;
      }
      reshard::LocalBox local = reshard::RowMajorLayout(box, item, 8);
      if (transposed && shape.size() == 2) local.strides_bytes = {item, item * box.shape[0]};
      reshard::TensorShard shard{
          tensor.meta, static_cast<uint32_t>(world.buffer_bytes[r].size()), {local}, {}, group, false};
      world.ranks[r].shards.push_back(std::move(shard));
      world.buffer_bytes[r].push_back(reshard::NumElements(box) * item + 16);
    }
    group = (group + 1) % 3;
  }
  return world;
}

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_PIPELINE_TEST_JOB_H_
