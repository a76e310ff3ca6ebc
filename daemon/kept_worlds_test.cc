#include "daemon/kept_worlds.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <fcntl.h>

#include <cstring>

#include "daemon/device/owned_memory.h"
#include "daemon/same_place.h"
#include "proto/sessions.pb.h"

namespace keepstep::daemon {
namespace {

using namespace std::chrono_literals;
using Clock = KeptWorlds::Clock;

constexpr char kJob[] = "/ckpt/job";
constexpr int64_t kMiB = 1 << 20;
constexpr GpuUuid kGpu{7};

struct TensorAt {
  std::string fqn;
  uint64_t ordinal = 1;  // 0: host memory
  int64_t offset_bytes = 0;
  int64_t elements = 16;
};

// Of one process: piece `ordinal` is mapped at `base` + ordinal × 64 MiB; every tensor is U8, in a buffer of its own.
std::shared_ptr<const Registration> Registered(const std::vector<TensorAt>& tensors, uint64_t base = uint64_t{1} << 40,
                                               int64_t generation = 1) {
  auto registration = std::make_shared<Registration>();
  auto shards = std::make_shared<reshard::RankShards>();
  std::map<uint64_t, DeclaredMemory> memory;
  for (const TensorAt& tensor : tensors) {
    const uint64_t piece = base + tensor.ordinal * 64 * kMiB;
    reshard::TensorShard shard;
    shard.meta = {.fqn = tensor.fqn, .dtype = reshard::DType::kU8, .shape = {tensor.elements}};
    shard.buffer = static_cast<uint32_t>(registration->addresses.size());
    shard.boxes = {reshard::RowMajorLayout({{0}, {tensor.elements}}, 1)};
    shards->shards.push_back(shard);
    registration->addresses.push_back((tensor.ordinal == 0 ? base : piece) + tensor.offset_bytes);
    registration->sizes_bytes.push_back(tensor.elements);
    registration->on_gpu.push_back(tensor.ordinal != 0);
    if (tensor.ordinal == 0) continue;
    memory[piece] = {.address = piece, .size_bytes = 4 * kMiB, .gpu = kGpu, .kind = HandleKind::kDescriptor,
                     .owned = tensor.ordinal};
  }
  for (const auto& [address, one] : memory) registration->gpu_memory.push_back(one);
  registration->generation = generation;
  registration->shards = std::move(shards);
  return registration;
}

// One group, whose update `begun` has begun and `done` is done; the step was noted when `expected` were queued.
struct Recorded {
  int64_t step = 42;
  uint32_t begun = 9, done = 9, expected = 9;
  uint64_t generation = 1;
};

storage::UniqueFd RecordOf(const Recorded& recorded) {
  storage::UniqueFd fd(memfd_create("record", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), proto::kFlightRecordBytes), 0);
  const auto put = [&](const void* bytes, size_t size, int64_t at) {
    EXPECT_EQ(pwrite(fd.get(), bytes, size, at), static_cast<ssize_t>(size));
  };
  proto::FlightHead head;
  head.state = proto::FlightState::kRecording;
  put(&head, sizeof(head), 0);
  proto::FlightWords words;
  words.begun[0] = recorded.begun;
  words.done[0] = recorded.done;
  put(&words, sizeof(words), proto::kFlightWordsOffset);
  v1::SaveRequest request;
  request.set_step(recorded.step);
  const std::string encoded = request.SerializeAsString();
  proto::FlightSlot slot{.sequence = 1, .step = recorded.step, .generation = recorded.generation,
                         .request_bytes = static_cast<uint32_t>(encoded.size())};
  slot.expected[0] = recorded.expected;
  std::string bytes(reinterpret_cast<const char*>(&slot), sizeof(slot));
  bytes += encoded;
  slot.checksum = proto::FlightChecksum(absl::string_view(bytes).substr(sizeof(slot.checksum)));
  std::memcpy(bytes.data(), &slot.checksum, sizeof(slot.checksum));
  put(bytes.data(), bytes.size(), proto::FlightSlotOffset(0));
  EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  return fd;
}

class KeptWorldsTest : public ::testing::Test {
 protected:
  LentPiece Piece() { return {*owned_.Allocate(kGpu, 4 * kMiB), 0}; }

  // Rank `rank` of two dies, with pieces 1 and 2.
  void Die(int32_t rank, const Recorded& recorded = {}, int64_t epoch = 0) {
    kept_.Keep(kJob, {.epoch = epoch == 0 ? epoch_ : epoch, .rank = rank, .world_size = 2, .registration = Registered(tensors_),
                      .pieces = {{{kGpu, 1}, Piece()}, {{kGpu, 2}, Piece()}}, .flight_record = RecordOf(recorded)}, now_);
  }

  struct Process {
    std::map<PieceName, LentPiece> pieces;
    std::vector<std::string> told;  // "42" or why it is cold
    std::shared_ptr<const WarmWorld> world;
  };

  // A new process of that rank, which has allocated both.
  Process Restart(int32_t rank, int32_t world_size = 2, int64_t size_bytes = 4 * kMiB) {
    Process process;
    for (uint64_t ordinal : {1, 2}) {
      auto lent = kept_.HandOn(kJob, rank, world_size, {kGpu, ordinal}, size_bytes);
      process.pieces[{kGpu, ordinal}] = lent.has_value() ? *lent : Piece();
    }
    return process;
  }

  WarmAsk AskOf(const Process& process, int32_t rank, int64_t epoch = 0) {
    return {.epoch = epoch == 0 ? epoch_ + 1 : epoch, .rank = rank, .world_size = 2,
            .registration = Registered(tensors_, uint64_t{3} << 40, 8), .pieces = process.pieces,
            .committed = true, .committed_step = 40, .committed_epoch = epoch_};
  }

  void Ask(Process& process, WarmAsk ask) {
    kept_.Ask(kJob, std::move(ask), [&process](const WarmAnswer& answer) {
      process.told.push_back(answer.world == nullptr ? answer.why_cold : std::to_string(answer.world->step));
      process.world = answer.world;
    });
  }

  // Both ranks ask; what both are told. The next to die are of a later epoch.
  std::string Decide(std::function<void(WarmAsk&)> change_of_rank_1 = nullptr) {
    Process zero = Restart(0), one = Restart(1);
    WarmAsk ask = AskOf(one, 1);
    if (change_of_rank_1) change_of_rank_1(ask);
    Ask(zero, AskOf(zero, 0));
    EXPECT_TRUE(zero.told.empty()) << "before all have asked: " << zero.told[0];
    Ask(one, ask);
    EXPECT_EQ(zero.told, one.told) << "all ranks are told the same";
    EXPECT_EQ(zero.told.size(), 1u);
    epoch_ += 2;
    return zero.told.at(0);
  }

  std::vector<TensorAt> tensors_ = {{"w", 1, 512}, {"m", 2, 0, 100}, {"step", 0, 8, 4}};
  Clock::time_point now_{};
  int64_t epoch_ = 5;  // of those who die
  // Pieces that no GPU has: what matters here is who holds them.
  OwnedMemory owned_{[](const GpuUuid&, int64_t) { return storage::UniqueFd(memfd_create("piece", MFD_CLOEXEC)); },
                     int64_t{1} << 40};
  KeptWorlds kept_{60s};
};

TEST_F(KeptWorldsTest, AWholeWorldGoesOnAtItsStep) {
  Die(0);
  Die(1);
  EXPECT_EQ(Decide(), "42");
  EXPECT_EQ(kept_.counts().warm, 1);
  EXPECT_EQ(kept_.counts().worlds, 0);
}

// One thing each that keeps a world from going on, and the sentence that says so.
TEST_F(KeptWorldsTest, WhatIsNotProvedIsCold) {
  Die(0);
  Die(1, {.begun = 10});
  EXPECT_EQ(Decide().substr(0, 7), "rank 1:") << "an update had begun";
  Die(0);
  Die(1, {.begun = 8, .done = 8});
  EXPECT_EQ(Decide().substr(0, 7), "rank 1:") << "an update of the noted step was still queued";
  Die(0);
  Die(1, {.generation = 2});
  EXPECT_EQ(Decide().substr(0, 7), "rank 1:") << "noted of another registration";
  Die(0);
  Die(1, {.step = 41});
  EXPECT_EQ(Decide(), "rank 1 was at step 41, rank 0 at 42");
  Die(0);
  EXPECT_EQ(Decide(), "rank 1 did not leave its memory");
  EXPECT_EQ(kept_.counts().cold, 5);
}

TEST_F(KeptWorldsTest, OtherTensorsOrPlacesAreCold) {
  const std::vector<std::pair<std::vector<TensorAt>, std::string>> others = {
      {{{"w", 1, 512}, {"m", 2, 0, 100}}, "rank 1 has no tensor 'step' any more"},
      {{{"w", 1, 512}, {"m", 2, 0, 100}, {"step", 0, 8, 4}, {"v"}}, "rank 1 has a tensor 'v' that it did not have"},
      {{{"w", 1, 512}, {"m", 2, 0, 99}, {"step", 0, 8, 4}}, "rank 1 has a tensor 'm' of another kind, shape or layout"},
      {{{"w", 1, 513}, {"m", 2, 0, 100}, {"step", 0, 8, 4}}, "rank 1 has 'w' at another place"},
      {{{"w", 2, 512}, {"m", 1, 0, 100}, {"step", 0, 8, 4}}, "rank 1 has 'w' at another place"},
      {{{"w", 0, 512}, {"m", 2, 0, 100}, {"step", 0, 8, 4}}, "rank 1 has 'w' in another kind of memory"},
      {{{"w", 1, 4 * kMiB - 8}, {"m", 2, 0, 100}, {"step", 0, 8, 4}},
       "rank 1 has 'w' in GPU memory that the daemon does not own"},
  };
  for (const auto& [tensors, why] : others) {
    Die(0);
    Die(1);
    EXPECT_EQ(Decide([&](WarmAsk& ask) { ask.registration = Registered(tensors, uint64_t{3} << 40, 8); }), why);
  }
}

TEST_F(KeptWorldsTest, WhatWasSavedSinceIsNewer) {
  Die(0);
  Die(1);
  EXPECT_EQ(Decide([](WarmAsk& ask) { ask.committed_step = 43; }), "step 43 is committed, the memory is of step 42");
  Die(0);
  Die(1);
  EXPECT_EQ(Decide([](WarmAsk& ask) { ++ask.committed_epoch; }), "another run has saved since");
  Die(0);
  Die(1);
  EXPECT_EQ(Decide([](WarmAsk& ask) { ask.committed_step = 42; }), "42") << "the step itself: a rescue";
  Die(0);
  Die(1);
  EXPECT_EQ(Decide([](WarmAsk& ask) { ask.committed = false; }), "42") << "nothing was ever saved";
}

// The piece that the process has must be the one that was kept, and still be its.
TEST_F(KeptWorldsTest, NewMemoryIsNeverTakenForKept) {
  Die(0);
  Die(1);
  EXPECT_EQ(Decide([this](WarmAsk& ask) { ask.pieces[{kGpu, 2}] = Piece(); }),
            "rank 1 has 'm' in memory that was not kept");
  Die(0);
  Die(1);
  EXPECT_EQ(Decide([](WarmAsk& ask) { ask.pieces.erase({kGpu, 1}); }), "rank 1 has 'w' in memory that was not kept");
  Die(0);
  Die(1);
  EXPECT_EQ(Decide([](WarmAsk& ask) { ++ask.pieces[{kGpu, 2}].kept_of; }), "rank 1 has 'm' in memory that was not kept");
  Die(0);
  Die(1);
  EXPECT_FALSE(kept_.HandOn(kJob, 0, 2, {kGpu, 1}, 2 * kMiB).has_value()) << "another size";
  EXPECT_FALSE(kept_.HandOn(kJob, 0, 2, {kGpu, 3}, 4 * kMiB).has_value()) << "another ordinal";
  EXPECT_FALSE(kept_.HandOn(kJob, 0, 3, {kGpu, 1}, 4 * kMiB).has_value()) << "another world";
  EXPECT_FALSE(kept_.HandOn(kJob, 2, 2, {kGpu, 1}, 4 * kMiB).has_value()) << "another rank";
  EXPECT_FALSE(kept_.HandOn("/ckpt/other", 0, 2, {kGpu, 1}, 4 * kMiB).has_value()) << "another job";
  EXPECT_TRUE(kept_.HandOn(kJob, 0, 2, {kGpu, 1}, 3 * kMiB).has_value()) << "the same size, rounded up";
  EXPECT_FALSE(kept_.HandOn(kJob, 0, 2, {kGpu, 1}, 4 * kMiB).has_value()) << "once";
}

TEST_F(KeptWorldsTest, ARankThatLoadsOtherwiseDecidesForAll) {
  Die(0);
  Die(1);
  Process zero = Restart(0), one = Restart(1);
  Ask(zero, AskOf(zero, 0));
  kept_.Decline(kJob, 6, "rank 1 loads step 10");
  EXPECT_EQ(zero.told, std::vector<std::string>{"rank 1 loads step 10"});
  Ask(one, AskOf(one, 1));
  EXPECT_EQ(one.told, zero.told) << "one decision an epoch";
  EXPECT_EQ(kept_.counts().worlds, 0);
  Die(0);
  Die(1);
  kept_.Decline(kJob, 5, "a call of the old run");
  EXPECT_EQ(kept_.counts().worlds, 1) << "that run's own memory";
}

TEST_F(KeptWorldsTest, WhoeverAsksLateOrTwiceIsCold) {
  Die(0);
  Die(1);
  Process zero = Restart(0), one = Restart(1);
  Ask(zero, AskOf(zero, 0));
  Ask(one, AskOf(one, 1));
  EXPECT_EQ(zero.told, std::vector<std::string>{"42"});
  Ask(zero, AskOf(zero, 0));
  EXPECT_EQ(zero.told.at(1), "this run has decided already whether it goes on with kept memory");
  Die(0);
  Die(1);
  Process again = Restart(0), more = Restart(0);
  Ask(again, AskOf(again, 0, 7));
  Ask(more, AskOf(more, 0, 7));
  EXPECT_EQ(again.told, more.told);
  EXPECT_EQ(again.told, std::vector<std::string>{"a rank asked twice"});
  Process old = Restart(1);
  Ask(old, AskOf(old, 1, 6));
  EXPECT_EQ(old.told, std::vector<std::string>{"the run is in a later epoch"});
}

TEST_F(KeptWorldsTest, ALaterEpochFreesThoseWhoWaitInAnOlder) {
  Die(0);
  Die(1);
  Process zero = Restart(0);
  Ask(zero, AskOf(zero, 0, 6));
  Process next = Restart(0);
  Ask(next, AskOf(next, 0, 7));
  EXPECT_EQ(zero.told, std::vector<std::string>{"the run is in a later epoch"});
}

TEST_F(KeptWorldsTest, AJobWithoutKeptMemoryIsToldAtOnce) {
  Process zero = Restart(0);
  Ask(zero, AskOf(zero, 0));
  EXPECT_EQ(zero.told, std::vector<std::string>{"no memory was kept for this job"});
  Die(1);  // seen late: the others have been told
  Process one = Restart(1);
  Ask(one, AskOf(one, 1));
  EXPECT_EQ(one.told, zero.told);
  EXPECT_EQ(kept_.counts().worlds, 1) << "nobody was told anything about that";
}

TEST_F(KeptWorldsTest, TheHoldEndsAndFreesMemoryAndWaiters) {
  Die(0);
  now_ += 30s;
  Die(1);
  kept_.Expire(Clock::time_point{} + 59s);
  EXPECT_EQ(owned_.used_bytes(), 16 * kMiB);
  EXPECT_EQ(kept_.bytes_by_gpu(), (std::map<GpuUuid, int64_t>{{kGpu, 16 * kMiB}}));
  Process zero = Restart(0);
  Ask(zero, AskOf(zero, 0));
  EXPECT_EQ(kept_.bytes_by_gpu(), (std::map<GpuUuid, int64_t>{{kGpu, 8 * kMiB}})) << "without what was handed on";
  kept_.Expire(Clock::time_point{} + 60s);
  EXPECT_EQ(zero.told, std::vector<std::string>{"memory is kept no longer than gpu_pool.hold"});
  EXPECT_EQ(owned_.used_bytes(), 8 * kMiB) << "what was handed on is the new process's";
  EXPECT_TRUE(kept_.bytes_by_gpu().empty());
  EXPECT_FALSE(kept_.HandOn(kJob, 1, 2, {kGpu, 1}, 4 * kMiB).has_value());
}

TEST_F(KeptWorldsTest, MemoryThatIsNeededGoesOldestFirst) {
  Die(0);
  now_ += 1s;
  kept_.Keep("/ckpt/other", {.epoch = 2, .registration = Registered(tensors_), .pieces = {{{kGpu, 1}, Piece()}},
                             .flight_record = RecordOf({})}, now_);
  EXPECT_TRUE(kept_.DropOldest());
  EXPECT_EQ(owned_.used_bytes(), 4 * kMiB);
  EXPECT_FALSE(kept_.HandOn(kJob, 0, 2, {kGpu, 1}, 4 * kMiB).has_value());
  EXPECT_TRUE(kept_.DropOldest());
  EXPECT_EQ(owned_.used_bytes(), 0);
  EXPECT_FALSE(kept_.DropOldest());
}

TEST_F(KeptWorldsTest, OnlyTheNewestEpochsMemoryIsKept) {
  Die(0);
  Die(1);
  Die(0, {}, 7);
  EXPECT_EQ(owned_.used_bytes(), 8 * kMiB);
  Die(1, {}, 6);
  EXPECT_EQ(owned_.used_bytes(), 8 * kMiB) << "an older run's is not";
}

// The decision frees what no new process was handed.
TEST_F(KeptWorldsTest, NothingIsKeptOnceItIsDecided) {
  Die(0);
  Die(1);
  {
    Process zero = Restart(0), one = Restart(1);
    kept_.Keep("/ckpt/unused", {.epoch = 1, .registration = Registered(tensors_), .pieces = {{{kGpu, 1}, Piece()}},
                                .flight_record = RecordOf({})}, now_);
    Ask(zero, AskOf(zero, 0));
    Ask(one, AskOf(one, 1));
    EXPECT_EQ(owned_.used_bytes(), 20 * kMiB);
  }
  EXPECT_EQ(owned_.used_bytes(), 4 * kMiB) << "the other job's";
}

}  // namespace
}  // namespace keepstep::daemon
