// The C ABI: what it refuses, what it fills in, and what a forked child may do.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "client/address.h"
#include "client/c_shards.h"
#include "client/fake_daemon.h"
#include "client/keepstep.h"
#include "client/keepstep.hpp"

namespace keepstep::client {
namespace {

class CApiTest : public testing::Test {
 protected:
  ks_open_options Options() {
    ks_open_options options = OpenOptions(directory_.c_str());
    options.address = address_.c_str();
    return options;
  }
  std::vector<ks_shard> Shards() {
    static constexpr int64_t kShape[] = {64}, kOrigin[] = {0};
    static const ks_box kBox = {.origin = kOrigin, .shape = kShape};
    ks_shard shard{};
    shard.fqn = "weights";
    shard.dtype = "F32";
    shard.global_shape = kShape;
    shard.ndim = 1;
    shard.component = KS_MODEL;
    shard.data = weights_.data();
    shard.data_bytes = sizeof(weights_);
    shard.where = KS_BOXES;
    shard.boxes = &kBox;
    shard.box_count = 1;
    return {shard};
  }

  FakeDaemon daemon_{FakeScript{}};
  std::string directory_ = daemon_.job_directory(), address_ = daemon_.address();
  std::array<float, 64> weights_{};
};

TEST_F(CApiTest, SavesThroughTheWrapper) {
  Checkpointer checkpointer;
  ASSERT_FALSE(checkpointer.Open(Options()));
  ASSERT_FALSE(checkpointer.Register(Shards()));
  uint64_t number = 0;
  ASSERT_FALSE(checkpointer.Save(5, &number));
  EXPECT_EQ(checkpointer.BeforeUpdate(0, 0).code, KS_DEADLINE_EXCEEDED);
  daemon_.Release(0, number);
  EXPECT_FALSE(checkpointer.BeforeUpdate());
  EXPECT_EQ(ks_gate_open(checkpointer.get(), 0), 1);
  ks_save_status status;
  EXPECT_EQ(checkpointer.Wait(number, KS_ACCEPTED, &status).code, KS_OK);
  EXPECT_EQ(status.step, 5);
  EXPECT_GT(status.call_seconds, 0);
}

TEST(PrefetchTest, TakesAnyAddress) {
  const uint64_t addresses[] = {0, 1, 0xffff'ffff'ffff'ffff, reinterpret_cast<uint64_t>(&addresses)};
  ks_prefetch(addresses, 4);
  ks_prefetch(addresses, 0);
  ks_prefetch(nullptr, 4);
}

TEST_F(CApiTest, NullArgumentsAreErrorsNotCrashes) {
  ks_error error{};
  ks_client* client = nullptr;
  EXPECT_EQ(ks_open(nullptr, &client, &error), KS_INVALID_ARGUMENT);
  EXPECT_STREQ(error.reason, "BAD_ARGUMENT");
  EXPECT_EQ(error.rank, -1);
  ks_open_options unset{};
  EXPECT_EQ(ks_open(&unset, &client, &error), KS_INVALID_ARGUMENT);
  ks_open_options options = Options();
  EXPECT_EQ(ks_open(&options, nullptr, nullptr), KS_INVALID_ARGUMENT);
  EXPECT_EQ(ks_register(nullptr, nullptr, 0, &error), KS_INVALID_ARGUMENT);
  EXPECT_EQ(ks_gate_open(nullptr, 0), 0);
  EXPECT_EQ(ks_should_save(nullptr, 1, 1), 0);
  EXPECT_EQ(ks_wish_save(nullptr, &error), KS_INVALID_ARGUMENT);
  ks_close(nullptr);

  ASSERT_EQ(ks_open(&options, &client, &error), KS_OK) << error.message;
  EXPECT_EQ(ks_get_info(client, nullptr, &error), KS_INVALID_ARGUMENT);
  EXPECT_EQ(ks_register(client, nullptr, 1, &error), KS_INVALID_ARGUMENT);
  EXPECT_EQ(ks_save(client, 1, nullptr, nullptr, &error), KS_INVALID_ARGUMENT);
  EXPECT_EQ(ks_wait(client, 1, KS_COMMITTED, 0, nullptr, &error), KS_INVALID_ARGUMENT);
  EXPECT_EQ(ks_load(client, nullptr, nullptr, &error), KS_INVALID_ARGUMENT);
  EXPECT_EQ(ks_get_extras(client, 1, 0, 0, nullptr, nullptr, &error), KS_INVALID_ARGUMENT);
  EXPECT_EQ(ks_steps(client, nullptr, nullptr, &error), KS_INVALID_ARGUMENT);
  ks_close(client);
}

TEST_F(CApiTest, SavingNothingSaysToRegister) {
  Checkpointer checkpointer;
  ASSERT_FALSE(checkpointer.Open(Options()));
  uint64_t number = 0;
  EXPECT_STREQ(checkpointer.Save(1, &number).reason, "NOTHING_REGISTERED");
  EXPECT_EQ(number, 0u);
}

TEST_F(CApiTest, ExtrasAreBounded) {
  Checkpointer checkpointer;
  ASSERT_FALSE(checkpointer.Open(Options()));
  ASSERT_FALSE(checkpointer.Register(Shards()));
  const std::string large(1 << 20, 'x');
  const void* item = large.data();
  const size_t item_bytes = large.size();
  const ks_extra extra = {.name = "rng", .items = &item, .item_bytes = &item_bytes, .item_count = 1};
  ks_save_options options = SaveOptions();
  options.extras = &extra;
  options.extra_count = 1;
  uint64_t number = 0;
  EXPECT_STREQ(checkpointer.Save(1, &number, options).reason, "EXTRAS_TOO_LARGE");
}

// A data loader's workers inherit the client: none of them may speak for the trainer, or hang on its locks.
TEST_F(CApiTest, ForkedChildGetsAnErrorAndMayClose) {
  Checkpointer checkpointer;
  ASSERT_FALSE(checkpointer.Open(Options()));
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ks_error error{};
    const bool refused = ks_before_update(checkpointer.get(), 0, 0, &error) == KS_FAILED_PRECONDITION &&
                         std::strcmp(error.reason, "FORKED") == 0;
    ks_close(checkpointer.get());
    // gRPC's threads are not there: an opening that was tried would wait for ever.
    const ks_open_options options = Options();
    ks_client* own = nullptr;
    const bool opened = ks_open(&options, &own, &error) != KS_FAILED_PRECONDITION ||
                        std::strcmp(error.reason, "FORKED") != 0;
    _exit(refused && !opened ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_FALSE(checkpointer.Register(Shards())) << "the parent goes on";
}

TEST_F(CApiTest, ShardsAreCheckedBeforeAnythingIsSent) {
  std::vector<ks_shard> shards = Shards();
  shards[0].fqn = nullptr;
  EXPECT_FALSE(DeclareShards(shards.data(), 1).ok());
  shards = Shards();
  shards[0].where = 9;
  EXPECT_FALSE(DeclareShards(shards.data(), 1).ok());
  shards = Shards();
  shards[0].data = nullptr;
  EXPECT_FALSE(DeclareShards(shards.data(), 1).ok());
  shards = Shards();
  shards[0].group = 256;
  EXPECT_FALSE(DeclareShards(shards.data(), 1).ok());
}

TEST_F(CApiTest, GpuMemoryIsItsOwnBufferAndNeverSampled) {
  std::vector<ks_shard> shards = {Shards()[0], Shards()[0]};
  shards[1].fqn = "moments";
  shards[1].memory = KS_CUDA;
  const Declared declared = DeclareShards(shards.data(), shards.size()).value();
  ASSERT_EQ(declared.buffers.size(), 2u);
  EXPECT_TRUE(declared.buffers[0].has_host());
  EXPECT_EQ(declared.buffers[1].device().address(), reinterpret_cast<uint64_t>(weights_.data()));
  EXPECT_EQ(declared.buffers[1].device().size_bytes(), static_cast<int64_t>(sizeof(weights_)));
  ASSERT_EQ(declared.samples.at(0).size(), 1u);
  EXPECT_EQ(declared.samples.at(0)[0].fqn, "weights");
  shards[1].memory = 2;
  EXPECT_FALSE(DeclareShards(shards.data(), shards.size()).ok());
}

TEST_F(CApiTest, WhatIsNoGpuMemoryIsRefusedByName) {
  Checkpointer checkpointer;
  ASSERT_FALSE(checkpointer.Open(Options()));
  std::vector<ks_shard> shards = Shards();
  shards[0].memory = KS_CUDA;
  const Error error = checkpointer.Register(shards);
  EXPECT_EQ(error.code, KS_INVALID_ARGUMENT);
  EXPECT_STREQ(error.reason, "BAD_SHARD");
  EXPECT_NE(std::strstr(error.message, "weights"), nullptr) << error.message;
}

TEST_F(CApiTest, InfoSaysByWhichPathMemoryGoes) {
  Checkpointer checkpointer;
  ASSERT_FALSE(checkpointer.Open(Options()));
  ks_info info;
  ASSERT_EQ(ks_get_info(checkpointer.get(), &info, nullptr), KS_OK);
  EXPECT_STREQ(info.memory_paths, "host by pull");
}

// A fused allocation is one buffer, and a sample never reaches beyond it.
TEST_F(CApiTest, EqualBuffersAreSharedAndSamplesStayInside) {
  std::vector<ks_shard> shards = {Shards()[0], Shards()[0]};
  const int64_t origin[] = {0}, shape[] = {16};
  const ks_box tail = {.origin = origin, .shape = shape, .offset_bytes = 192};
  const ks_box outside = {.origin = origin, .shape = shape, .offset_bytes = 200};
  shards[0].boxes = &tail;
  shards[1].boxes = &outside;
  shards[1].group = 1;
  const Declared declared = DeclareShards(shards.data(), shards.size()).value();
  EXPECT_EQ(declared.buffers.size(), 1u);
  ASSERT_EQ(declared.samples.at(0).size(), 1u);
  EXPECT_EQ(declared.samples.at(0)[0].data, reinterpret_cast<std::byte*>(weights_.data()) + 192);
  EXPECT_EQ(declared.samples.at(0)[0].size_bytes, 64);
  EXPECT_TRUE(declared.samples.at(1).empty());
}

TEST(ParseAddress, TakesUnixPathsAlone) {
  EXPECT_EQ(ParseAddress("unix:///a/keepstep.sock")->handoff_path, "/a/keepstep-handoff.sock");
  EXPECT_EQ(ParseAddress("unix:/a/b.sock")->grpc_path, "/a/b.sock");
  EXPECT_FALSE(ParseAddress("localhost:50051").ok());
  EXPECT_FALSE(ParseAddress("unix:relative.sock").ok());
  EXPECT_FALSE(ParseAddress("").ok());
  EXPECT_FALSE(ParseAddress("/" + std::string(200, 'x')).ok());
}

}  // namespace
}  // namespace keepstep::client
