// A worker on a machine of two NUMA nodes, as far as the driver and sysfs tell it: where it runs, and what of it comes
// to whoever takes staging memory.

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "daemon/device/test_fixture.h"
#include "daemon/host_nodes.h"

namespace keepstep::daemon {
namespace {

class NearnessTest : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    if (!fake_cuda::IsFake()) GTEST_SKIP() << "where a real GPU is, is not ours to say";
    sysfs_ = testing::TempDir() + "/sysfs-" + std::to_string(getpid()) + "-" +
             testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(sysfs_);
    ASSERT_EQ(sched_getaffinity(0, sizeof(allowed_), &allowed_), 0);
    while (!CPU_ISSET(processor_, &allowed_)) ++processor_;
    Write("/devices/system/node/has_memory", "0-1\n");
    Write("/devices/system/node/node0/cpulist", "4000-4003\n");
    Write("/devices/system/node/node1/cpulist", std::to_string(processor_) + ",4004-4007\n");
  }

  void TearDown() override {
    DeviceTest::TearDown();
    if (!sysfs_.empty()) std::filesystem::remove_all(sysfs_);
  }

  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(sysfs_ + path).parent_path());
    std::ofstream(sysfs_ + path) << text;
  }

  // Registers memory, reads it, and returns the node that its port prefers.
  int NodeOfPort() {
    const DeclaredMemory memory = trainer_->Allocate(kMiB, 1);
    const auto port = Port(Open({memory}));
    ExpectPattern(*port, memory, 1);
    return port->node();
  }

  // Of all threads of the worker.
  std::vector<cpu_set_t> Affinities() {
    std::vector<cpu_set_t> all;
    for (const auto& thread :
         std::filesystem::directory_iterator("/proc/" + std::to_string(hub_->workers().at(0).pid) + "/task")) {
      cpu_set_t set;
      if (sched_getaffinity(std::stoi(thread.path().filename().string()), sizeof(set), &set) == 0) all.push_back(set);
    }
    EXPECT_FALSE(all.empty());
    return all;
  }

  void ExpectRunsAnywhere() {
    for (cpu_set_t& set : Affinities()) EXPECT_TRUE(CPU_EQUAL(&set, &allowed_));
  }

  cpu_set_t allowed_;
  int processor_ = 0;
};

TEST_F(NearnessTest, AWorkerStaysOnTheNodeThatTheDriverNames) {
  setenv("KEEPSTEP_FAKE_CUDA_HOST_NUMA_IDS", "1", 1);
  Start();
  EXPECT_EQ(NodeOfPort(), 1);
  EXPECT_EQ(hub_->workers().at(0).node, 1);
  for (cpu_set_t& set : Affinities()) EXPECT_TRUE(CPU_COUNT(&set) == 1 && CPU_ISSET(processor_, &set));
}

TEST_F(NearnessTest, SysfsTellsWhereTheDriverDoesNotKnow) {
  setenv("KEEPSTEP_FAKE_CUDA_OFF", "host_numa_id", 1);
  Write("/bus/pci/devices/0000:01:00.0/numa_node", "1\n");
  Start();
  EXPECT_EQ(NodeOfPort(), 1);
  for (cpu_set_t& set : Affinities()) EXPECT_TRUE(CPU_COUNT(&set) == 1 && CPU_ISSET(processor_, &set));
}

TEST_F(NearnessTest, WhatNobodyKnowsChangesNothing) {
  Start();
  EXPECT_EQ(NodeOfPort(), kAnyNode);
  ExpectRunsAnywhere();
}

TEST_F(NearnessTest, OneNodeChangesNothing) {
  setenv("KEEPSTEP_FAKE_CUDA_HOST_NUMA_IDS", "1", 1);
  Write("/devices/system/node/has_memory", "1\n");
  Start();
  EXPECT_EQ(NodeOfPort(), kAnyNode);
  EXPECT_EQ(hub_->workers().at(0).node, kAnyNode);
  ExpectRunsAnywhere();
}

// A container that may use the other node's processors alone.
TEST_F(NearnessTest, AWorkerThatMayNotRunThereWorksFromAfar) {
  setenv("KEEPSTEP_FAKE_CUDA_HOST_NUMA_IDS", "0", 1);
  Start();
  EXPECT_EQ(NodeOfPort(), 0) << "memory may be near all the same";
  ExpectRunsAnywhere();
  const auto worker = hub_->Worker(hub_->workers().at(0).gpu);
  ASSERT_TRUE(worker.ok());
  EXPECT_EQ((*worker)->why_elsewhere(), "no processor of node 0 may be used");
}

}  // namespace
}  // namespace keepstep::daemon
