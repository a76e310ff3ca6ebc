// Saves and loads through the whole data plane, with a store in memory.

#include <algorithm>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "daemon/error.h"
#include "daemon/pipeline_test_job.h"
#include "daemon/read_box.h"
#include "daemon/verify.h"
#include "gtest/gtest.h"
#include "storage/faulty_store.h"
#include "storage/memory_store.h"

namespace keepstep::daemon {
namespace {

using storage::FaultOp;
using storage::FaultyStore;
using storage::MemoryStore;

void ExpectLoads(TestJob& job, const std::shared_ptr<const StoredCheckpoint>& from,
                 const reshard::World& world, const Salts& salts) {
  for (size_t r = 0; r < world.ranks.size(); ++r) {
    RankBuffers loaded(world, r), expected(world, r);
    expected.Fill(salts);
    const absl::StatusOr<LoadStats> stats = job.Load(from, loaded);
    ASSERT_TRUE(stats.ok()) << stats.status();
    EXPECT_TRUE(loaded == expected) << "rank " << r;
  }
}

int64_t StoredBytes(const StoredCheckpoint& from) {
  int64_t bytes = 0;
  for (const StoredBlob& blob : from.blobs()) bytes += blob.size_bytes - blob.header_bytes;
  return bytes;
}

// Whatever the layout that saved, every byte comes back in whatever layout loads.
TEST(Pipeline, RandomWorldsLoadInOtherRandomWorlds) {
  const std::unique_ptr<DataPlane> plane = StartTestPlane(3);
  for (uint64_t seed = 1; seed <= 150; ++seed) {
    SCOPED_TRACE(seed);
    reshard::WorldMaker maker(seed);
    const std::vector<reshard::NamedTensor> tensors = maker.Tensors();
    TestJob job(plane.get(), std::make_shared<MemoryStore>());
    job.set_directory("000000000001/e1-a" + std::to_string(seed) + "-0123456789abcdef");
    const auto from = job.Save(maker.Make(tensors), SaltsOf(tensors));
    ASSERT_TRUE(from.ok()) << from.status();
    ExpectLoads(job, *from, maker.Make(tensors), SaltsOf(tensors));
    if (HasFatalFailure()) return;
  }
}

// A state many times larger than the pool streams through it.
TEST(Pipeline, LargeStateThroughTwoBuffers) {
  const std::unique_ptr<DataPlane> plane = StartTestPlane(2);
  TestJob job(plane.get(), std::make_shared<MemoryStore>());
  const Salts salts = SaltsOf(LargeTensors());
  const auto from = job.Save(LargeWorld(2, true, true), salts);
  ASSERT_TRUE(from.ok()) << from.status();
  ExpectLoads(job, *from, LargeWorld(3, false, false), salts);
  ExpectLoads(job, *from, LargeWorld(1, true, true), salts);
  plane->cache().Invalidate("");
  EXPECT_EQ(plane->pool().stats().used_bytes, 0);
}

TEST(Pipeline, SavedBytesServeALoadWithoutReading) {
  const std::unique_ptr<DataPlane> plane = StartTestPlane(32);
  const auto store = std::make_shared<MemoryStore>();
  FaultyStore faulty(store.get());
  TestJob job(plane.get(), std::shared_ptr<storage::BlobStore>(&faulty, [](auto*) {}));
  const Salts salts = SaltsOf(LargeTensors());
  const auto from = job.Save(LargeWorld(2, false, false), salts);
  ASSERT_TRUE(from.ok()) << from.status();
  ExpectLoads(job, *from, LargeWorld(2, true, false), salts);
  EXPECT_EQ(faulty.plan().Count(FaultOp::kRead), 0);
  RankBuffers all(LargeWorld(1, false, false), 0);
  const absl::StatusOr<LoadStats> stats = job.Load(*from, all);
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->warm_bytes, StoredBytes(**from));
  EXPECT_EQ(stats->read_bytes, 0);
  plane->cache().Invalidate("job/");
  EXPECT_EQ(plane->pool().stats().used_bytes, 0);
}

// Ranks of a node that need the same bytes at once cause one read of each.
TEST(Pipeline, ConcurrentLoadsReadEachBlockOnce) {
  const auto store = std::make_shared<MemoryStore>();
  const Salts salts = SaltsOf(LargeTensors());
  const std::unique_ptr<DataPlane> saver = StartTestPlane(4);
  const auto from = TestJob(saver.get(), store).Save(LargeWorld(2, false, false), salts);
  ASSERT_TRUE(from.ok()) << from.status();
  const std::unique_ptr<DataPlane> plane = StartTestPlane(32);
  TestJob job(plane.get(), store);
  const reshard::World world = LargeWorld(3, true, false);
  std::vector<std::unique_ptr<RankBuffers>> buffers;
  std::vector<std::future<absl::StatusOr<LoadStats>>> loads;
  for (size_t r = 0; r < 3; ++r) {
    buffers.push_back(std::make_unique<RankBuffers>(world, r));
    loads.push_back(std::async(
        std::launch::async, [&job, &from, rank = buffers.back().get()] { return job.Load(*from, *rank); }));
  }
  int64_t read_bytes = 0;
  for (size_t r = 0; r < 3; ++r) {
    const absl::StatusOr<LoadStats> stats = loads[r].get();
    ASSERT_TRUE(stats.ok()) << stats.status();
    read_bytes += stats->read_bytes;
    EXPECT_EQ(stats->read_bytes + stats->warm_bytes, stats->unique_bytes);
    RankBuffers expected(world, r);
    expected.Fill(salts);
    EXPECT_TRUE(*buffers[r] == expected);
  }
  EXPECT_EQ(read_bytes, StoredBytes(**from));
}

// A rank that needs some rows reads their blocks and no others.
TEST(Pipeline, ReadsOnlyNeededBlocks) {
  const auto store = std::make_shared<MemoryStore>();
  const Salts salts = SaltsOf(LargeTensors());
  const std::unique_ptr<DataPlane> saver = StartTestPlane(4);
  const auto from = TestJob(saver.get(), store).Save(LargeWorld(1, false, false), salts);
  ASSERT_TRUE(from.ok()) << from.status();
  const std::unique_ptr<DataPlane> plane = StartTestPlane(8);
  RankBuffers loaded(LargeWorld(8, false, false), 7);
  const absl::StatusOr<LoadStats> stats = TestJob(plane.get(), store).Load(*from, loaded);
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_LE(stats->read_bytes, stats->unique_bytes + (256 << 10));
  EXPECT_LT(stats->unique_bytes, StoredBytes(**from) / 2);
}

// Every write, flush or creation that fails ends the save with its stage, and nothing stays behind.
TEST(Pipeline, FaultsFailTheSaveCleanly) {
  const Salts salts = SaltsOf(LargeTensors());
  for (const FaultOp op : {FaultOp::kCreate, FaultOp::kWrite, FaultOp::kFinish}) {
    bool failed = true;
    int64_t n = 1;
    for (; failed; ++n) {
      SCOPED_TRACE(n);
      ASSERT_LT(n, 100);
      const std::unique_ptr<DataPlane> plane = StartTestPlane(4);
      MemoryStore store;
      FaultyStore faulty(&store);
      faulty.plan().FailNth(op, n, absl::ResourceExhaustedError("no space"));
      TestJob job(plane.get(), std::shared_ptr<storage::BlobStore>(&faulty, [](auto*) {}));
      const auto from = job.Save(LargeWorld(2, false, false), salts);
      failed = !from.ok();
      if (failed) {
        EXPECT_EQ(from.status().code(), absl::StatusCode::kResourceExhausted);
        EXPECT_EQ(plane->pool().stats().waiters, 0);
      }
      plane->cache().Invalidate("");
      EXPECT_EQ(plane->pool().stats().used_bytes, 0);
    }
    EXPECT_GT(n, 3) << "the fault never hit";
  }
}

TEST(Pipeline, ReadFaultsFailTheLoadAndTheNextSucceeds) {
  MemoryStore store;
  const Salts salts = SaltsOf(LargeTensors());
  const std::unique_ptr<DataPlane> saver = StartTestPlane(4);
  FaultyStore faulty(&store);
  const std::shared_ptr<storage::BlobStore> shared(&faulty, [](auto*) {});
  const auto from = TestJob(saver.get(), shared).Save(LargeWorld(1, false, false), salts);
  ASSERT_TRUE(from.ok()) << from.status();
  const std::unique_ptr<DataPlane> plane = StartTestPlane(4);
  TestJob job(plane.get(), shared);
  for (const FaultOp op : {FaultOp::kOpen, FaultOp::kRead}) {
    plane->cache().Invalidate("");
    faulty.plan().FailNth(op, 1, absl::UnavailableError("the disk blinked"));
    RankBuffers loaded(LargeWorld(1, false, false), 0);
    EXPECT_EQ(job.Load(*from, loaded).status().code(), absl::StatusCode::kUnavailable);
    faulty.plan().Clear();
    EXPECT_TRUE(job.Load(*from, loaded).ok());
  }
}

void Damage(storage::BlobStore& store, const StoredBlob& blob, int64_t offset_bytes) {
  std::string bytes = *storage::ReadBlob(store, blob.path);
  bytes[offset_bytes] ^= 1;
  ASSERT_TRUE(store.Delete(blob.path).ok());
  ASSERT_TRUE(storage::PutBlob(store, blob.path, bytes).ok());
}

TEST(Pipeline, DamagedBytesAreNeverDelivered) {
  const auto store = std::make_shared<MemoryStore>();
  const Salts salts = SaltsOf(LargeTensors());
  const std::unique_ptr<DataPlane> saver = StartTestPlane(4);
  const auto from = TestJob(saver.get(), store).Save(LargeWorld(1, false, false), salts);
  ASSERT_TRUE(from.ok()) << from.status();
  const StoredBlob& blob = (*from)->blobs()[0];
  Cancellation cancel;
  VerifyCallbacks callbacks;
  std::vector<daemon::Damage> damages;
  callbacks.damage = [&](const daemon::Damage& damage) { damages.push_back(damage); };
  ASSERT_EQ(VerifyCheckpoint(*saver, *store, **from, callbacks, cancel)->damages, 0);
  Damage(*store, blob, blob.size_bytes - 1);
  const absl::StatusOr<VerifyResult> verified = VerifyCheckpoint(*saver, *store, **from, callbacks, cancel);
  ASSERT_TRUE(verified.ok());
  EXPECT_EQ(verified->damages, 1);
  EXPECT_EQ(verified->progress.bytes_done, verified->progress.bytes_total);
  ASSERT_EQ(damages.size(), 1u);
  EXPECT_EQ(damages[0].blob, blob.path.text());
  const std::unique_ptr<DataPlane> plane = StartTestPlane(4);
  RankBuffers loaded(LargeWorld(1, false, false), 0);
  const absl::Status status = TestJob(plane.get(), store).Load(*from, loaded).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(std::string(status.message()).find(damages[0].owner), std::string::npos) << status;
  EXPECT_NE(std::string(status.message()).find(blob.path.text()), std::string::npos) << status;
}

// A port whose reads wait until the test lets them go, or the save is cancelled.
class HeldPort : public LocalPort {
 public:
  absl::Status Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) override {
    std::promise<void> over;
    Cancellation::Hook hook(cancel, [&over] { over.set_value(); });
    std::call_once(once_, [this] { reading.set_value(); });
    over.get_future().wait();
    return cancel.status();
  }
  bool waits_for_trainer() const override { return true; }
  std::promise<void> reading;

 private:
  std::once_flag once_;
};

TEST(Pipeline, CancelEndsAHeldSaveWithNothingInUse) {
  const std::unique_ptr<DataPlane> plane = StartTestPlane(4);
  TestJob job(plane.get(), std::make_shared<MemoryStore>());
  reshard::World world;
  world.ranks.resize(1);
  const reshard::TensorMeta meta{"w", reshard::DType::kF32, {16}, reshard::Component::kModel};
  world.ranks[0].shards.push_back(
      {meta, 0, {reshard::RowMajorLayout(reshard::WholeBox({16}), 4)}, {}, 5, false});
  world.buffer_bytes = {{64}};
  const auto plan = std::make_shared<const reshard::SavePlan>(*reshard::MakeSavePlan(world.ranks));
  RankBuffers rank(world, 0);
  SaveSpec spec = job.Spec(rank, plan, 1);
  const auto port = std::make_shared<HeldPort>();
  spec.port = port;
  SaveRecord record;
  const std::unique_ptr<SavePipeline> save = StartSave(*plane, std::move(spec), record.callbacks());
  port->reading.get_future().wait();
  save->Cancel(absl::AbortedError("the trainer died"));
  record.AwaitEnd();
  EXPECT_FALSE(record.flushed());
  EXPECT_TRUE(record.status().ok()) << record.status();
  EXPECT_TRUE(record.groups().empty());
  EXPECT_EQ(plane->pool().stats().used_bytes, 0);
}

// The pool is everybody's: a trainer that has been stopped must not keep all of it.
TEST(Pipeline, AHeldSaveLeavesStagingMemoryToOthers) {
  const std::unique_ptr<DataPlane> plane = StartTestPlane(7);  // fewer than the save has chunks
  const reshard::World world = LargeWorld(1, false, false);
  TestJob held_job(plane.get(), std::make_shared<MemoryStore>());
  const auto plan = std::make_shared<const reshard::SavePlan>(*reshard::MakeSavePlan(world.ranks));
  RankBuffers rank(world, 0);
  SaveSpec spec = held_job.Spec(rank, plan, 1);
  const auto port = std::make_shared<HeldPort>();
  spec.port = port;
  SaveRecord record;
  const std::unique_ptr<SavePipeline> held = StartSave(*plane, std::move(spec), record.callbacks());
  port->reading.get_future().wait();
  TestJob other(plane.get(), std::make_shared<MemoryStore>());
  other.set_directory("000000000002/e1-a2-0123456789abcdef");
  EXPECT_TRUE(other.Save(world, SaltsOf(LargeTensors())).ok());
  held->Cancel(absl::AbortedError("the trainer died"));
  record.AwaitEnd();
}

// Memory of a GPU that is near a node.
class NearPort : public LocalPort {
 public:
  explicit NearPort(int node) : node_(node) {}
  int node() const override { return node_; }

 private:
  const int node_;
};

// Two GPUs on two nodes save step after step: into fresh memory, and then, since the pool holds no second save, into
// what the block cache gives up.
TEST(Pipeline, StagingMemoryStaysNearFromSaveToSave) {
  constexpr int64_t kOfANode = 8;  // buffers; a rank's save takes five of them
  DataPlaneSpec spec;
  spec.pool.buffer_bytes = MinChunkBufferBytes();
  spec.pool.limit_bytes = 2 * kOfANode * spec.pool.buffer_bytes;
  spec.pool.initial_bytes = 0;
  spec.copy_workers = 2;
  const std::unique_ptr<DataPlane> plane = *DataPlane::Start(spec);
  const int64_t of_a_node_bytes = kOfANode * spec.pool.buffer_bytes;
  ASSERT_TRUE(plane->pool().Reserve(2 * of_a_node_bytes, {{0, of_a_node_bytes}, {1, of_a_node_bytes}}).ok());
  TestJob job(plane.get(), std::make_shared<MemoryStore>());
  job.set_ports([](int32_t rank) { return std::make_shared<NearPort>(rank); });
  const reshard::World world = LargeWorld(2, false, false);
  const Salts salts = SaltsOf(LargeTensors());
  for (int step = 1; step <= 8; ++step) {
    job.set_directory("00000000000" + std::to_string(step) + "/e1-a1-0123456789abcdef");
    ASSERT_TRUE(job.Save(world, salts).ok());
  }
  const StagingPool::Stats stats = plane->pool().stats();
  EXPECT_GT(stats.taken_near, 4 * 2 * kOfANode) << "each buffer several times";
  // Some: who has been passed too often takes what comes.
  EXPECT_LE(10 * stats.taken_elsewhere, stats.taken_near) << stats.taken_elsewhere << " elsewhere";
}

// A port under which each tensor is changed once it has been read for the save: the second read sees its sample differ.
class UpdatingPort : public LocalPort {
 public:
  absl::Status Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) override {
    absl::Status status = LocalPort::Read(runs, cancel);
    for (const MemoryRun& run : runs) *reinterpret_cast<uint8_t*>(run.address) += update_;
    return status;
  }
  bool waits_for_trainer() const override { return true; }
  uint8_t update_ = 0;
};

// The client samples host memory itself; GPU memory is the pipeline's to sample.
TEST(Pipeline, AGpuTensorThatChangesWhileItIsCopiedFailsTheSave) {
  const std::unique_ptr<DataPlane> plane = StartTestPlane(4);
  reshard::World world;
  world.ranks.resize(1);
  const reshard::TensorMeta meta{"w", reshard::DType::kF32, {16}, reshard::Component::kModel};
  world.ranks[0].shards.push_back({meta, 0, {reshard::RowMajorLayout(reshard::WholeBox({16}), 4)}, {}, 5, false});
  world.buffer_bytes = {{64}};
  const auto plan = std::make_shared<const reshard::SavePlan>(*reshard::MakeSavePlan(world.ranks));
  for (const uint8_t update : {0, 1}) {
    TestJob job(plane.get(), std::make_shared<MemoryStore>());
    RankBuffers rank(world, 0);
    SaveSpec spec = job.Spec(rank, plan, 1);
    const auto port = std::make_shared<UpdatingPort>();
    port->update_ = update;
    spec.port = port;
    spec.on_gpu = {true};
    SaveRecord record;
    const std::unique_ptr<SavePipeline> save = StartSave(*plane, std::move(spec), record.callbacks());
    record.AwaitEnd();
    EXPECT_EQ(record.flushed(), update == 0);
    EXPECT_EQ(record.groups().size(), update == 0 ? 1u : 0u) << "a changed group is not released as copied";
    if (update == 0) continue;
    const absl::Status status = record.status();
    EXPECT_EQ(ReasonOf(status), "UPDATED_DURING_SAVE") << status;
    EXPECT_EQ(status.message().substr(0, 2), "w ") << status;
  }
}

// Groups that a rank does not write are released too: its gate must not wait for bytes that nobody copies
// from it.
TEST(Pipeline, EveryGroupIsReleasedEvenWithoutBytes) {
  const std::unique_ptr<DataPlane> plane = StartTestPlane(4);
  TestJob job(plane.get(), std::make_shared<MemoryStore>());
  reshard::World world = LargeWorld(2, false, false);
  for (reshard::RankShards& rank : world.ranks) {
    reshard::TensorMeta meta{"shared", reshard::DType::kF32, {4}, reshard::Component::kModel};
    rank.shards.push_back({meta,
                           static_cast<uint32_t>(world.buffer_bytes[rank.rank].size()),
                           {reshard::RowMajorLayout(reshard::WholeBox({4}), 4)},
                           {0, 1},
                           9,
                           false});
    world.buffer_bytes[rank.rank].push_back(16);
  }
  const auto plan = std::make_shared<const reshard::SavePlan>(*reshard::MakeSavePlan(world.ranks));
  for (size_t r = 0; r < 2; ++r) {
    RankBuffers rank(world, r);
    SaveRecord record;
    const auto save = StartSave(*plane, job.Spec(rank, plan, 2), record.callbacks());
    record.AwaitEnd();
    EXPECT_TRUE(record.flushed()) << record.status();
    EXPECT_TRUE(record.copied());
    EXPECT_EQ(record.groups(), (std::set<uint32_t>{0, 1, 2, 9}));
  }
}

TEST(Pipeline, ExtrasAndBoxesReadBack) {
  const std::unique_ptr<DataPlane> plane = StartTestPlane(4);
  TestJob job(plane.get(), std::make_shared<MemoryStore>());
  const Salts salts = SaltsOf(LargeTensors());
  const std::string big(3 << 20, 'x');
  const auto from = job.Save(LargeWorld(2, false, false), salts,
                             {{"rng", {0, 1}, false, {"seed"}}, {"loader", {}, true, {"", big, "tail"}}});
  ASSERT_TRUE(from.ok()) << from.status();
  const ReadSource source{job.store(), "job/", *from};
  ASSERT_EQ((*from)->extras().size(), 2u);
  EXPECT_EQ(*ReadExtra(source, (*from)->extras()[0]), std::vector<std::string>{"seed"});
  EXPECT_EQ(*ReadExtra(source, (*from)->extras()[1]), (std::vector<std::string>{"", big, "tail"}));
  const reshard::Box box{{440, 7}, {20, 500}};
  std::string read;
  Cancellation cancel;
  const auto sink = [&](absl::string_view piece) {
    EXPECT_LE(piece.size(), 1000u);
    read.append(piece.data(), piece.size());
    return absl::OkStatus();
  };
  ASSERT_TRUE(ReadBox(*plane, source, "b.weight", box, 1000, sink, cancel).ok());
  reshard::oracle::Memory expected(20 * 500 * 4);
  reshard::oracle::WriteElements(reshard::RowMajorLayout(box, 4), {900, 1111}, 4, 2, expected);
  EXPECT_EQ(read, std::string(reinterpret_cast<const char*>(expected.data()), expected.size()));
  EXPECT_EQ(ReadBox(*plane, source, "nothing", box, 1000, sink, cancel).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace keepstep::daemon
