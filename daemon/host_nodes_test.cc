#include "daemon/host_nodes.h"

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/prefer_node.h"
#include "daemon/staging_pool.h"
#include "gtest/gtest.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {
namespace {

using Numbers = std::vector<int>;

TEST(HostNodes, ParsesWhatTheKernelWrites) {
  EXPECT_EQ(ParseNumbers("0-3,8-11\n"), (Numbers{0, 1, 2, 3, 8, 9, 10, 11}));
  EXPECT_EQ(ParseNumbers("0\n"), Numbers{0});
  EXPECT_EQ(ParseNumbers("1,3,5-5"), (Numbers{1, 3, 5}));
  EXPECT_EQ(ParseNumbers("\n"), Numbers()) << "a node without processors";
  for (const char* none : {"-1", "3-1", "a", "1,,2", "1,1", "1-2-3", "5,2", "0-65536", "0x1", "1 2"})
    EXPECT_EQ(ParseNumbers(none), std::nullopt) << none;
}

// A folder in place of /sys.
class SysfsTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(root_); }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }

  const std::string root_ = testing::TempDir() + "/sysfs-" + std::to_string(getpid());
};

TEST_F(SysfsTest, ThereIsSomethingToChooseAmongSeveralNodesWithMemory) {
  EXPECT_EQ(NodeToChoose(root_, 0), kAnyNode) << "a kernel without NUMA";
  Write("/devices/system/node/has_memory", "0\n");
  EXPECT_EQ(NodeToChoose(root_, 0), kAnyNode) << "one node";
  Write("/devices/system/node/has_memory", "0,2-3\n");
  EXPECT_EQ(NodeToChoose(root_, 0), 0);
  EXPECT_EQ(NodeToChoose(root_, 3), 3);
  EXPECT_EQ(NodeToChoose(root_, 1), kAnyNode) << "it has processors alone";
  EXPECT_EQ(NodeToChoose(root_, 7), kAnyNode);
  EXPECT_EQ(NodeToChoose(root_, kAnyNode), kAnyNode);
  Write("/devices/system/node/has_memory", "what?\n");
  EXPECT_EQ(NodeToChoose(root_, 0), kAnyNode);
}

TEST_F(SysfsTest, APciDeviceIsNearANodeOrItIsNotKnown) {
  Write("/bus/pci/devices/0000:3b:00.0/numa_node", "1\n");
  Write("/bus/pci/devices/0000:5e:00.0/numa_node", "-1\n");
  EXPECT_EQ(NodeOfPciDevice(root_, "0000:3b:00.0"), 1);
  EXPECT_EQ(NodeOfPciDevice(root_, "0000:5e:00.0"), kAnyNode);
  EXPECT_EQ(NodeOfPciDevice(root_, "0000:ff:00.0"), kAnyNode);
}

// In a process of its own.
int ExitStatusOf(const std::function<int()>& run) {
  const pid_t pid = fork();
  if (pid == 0) _exit(run());
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(SysfsTest, AProcessStaysOnTheProcessorsThatItMayUse) {
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  int one = 0;
  while (!CPU_ISSET(one, &allowed)) ++one;
  Write("/devices/system/node/node1/cpulist", absl::StrCat(one, ",4000-4003\n"));
  EXPECT_EQ(ExitStatusOf([&] {
              if (!StayOnNode(root_, 1).ok()) return 1;
              cpu_set_t now;
              if (sched_getaffinity(0, sizeof(now), &now) != 0) return 2;
              return CPU_COUNT(&now) == 1 && CPU_ISSET(one, &now) ? 0 : 3;
            }),
            0);
  Write("/devices/system/node/node2/cpulist", "4000-4003\n");
  for (const int node : {2, 3}) {  // of node 3 nothing is known
    EXPECT_EQ(ExitStatusOf([&] {
                const absl::Status none = StayOnNode(root_, node);
                cpu_set_t now;
                if (!absl::IsNotFound(none) || none.message().empty()) return 1;
                return sched_getaffinity(0, sizeof(now), &now) == 0 && CPU_EQUAL(&now, &allowed) ? 0 : 2;
              }),
              0);
  }
}

// ---- the kernel's own memory policies, on this machine's node 0

struct Policy {
  int mode = -1;
  unsigned long nodes = 0;
  friend bool operator==(const Policy&, const Policy&) = default;
};

Policy PolicyAt(const void* address) {
  Policy policy;
  std::array<unsigned long, 16> nodes{};
  EXPECT_EQ(syscall(SYS_get_mempolicy, &policy.mode, nodes.data(), nodes.size() * 8 * sizeof(nodes[0]) + 1, address,
                    MPOL_F_ADDR),
            0);
  policy.nodes = nodes[0];
  return policy;
}

// The node that the page at `address` lies on; negative: none.
int NodeAt(void* address) {
  int node = -1;
  EXPECT_EQ(syscall(SYS_move_pages, 0, 1UL, &address, nullptr, &node, 0), 0);
  return node;
}

class PreferNodeTest : public testing::Test {
 protected:
  void SetUp() override {
    void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const absl::Status status = PreferNode(absl::MakeSpan(static_cast<std::byte*>(page), 4096), 0);
    munmap(page, 4096);
    if (!status.ok()) GTEST_SKIP() << "this kernel places no memory for us: " << status;
  }
};

TEST_F(PreferNodeTest, SharedMemoryIsPlacedForEveryProcessThatMapsIt) {
  constexpr size_t kHalf = 65536;
  const storage::UniqueFd memory(memfd_create("keepstep-test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(memory.get(), 2 * kHalf), 0);
  auto* first = static_cast<std::byte*>(mmap(nullptr, 2 * kHalf, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0));
  auto* second = static_cast<std::byte*>(mmap(nullptr, 2 * kHalf, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0));
  ASSERT_TRUE(PreferNode(absl::MakeSpan(first, kHalf), 0).ok());
  const Policy near{MPOL_PREFERRED, 1}, any{MPOL_DEFAULT, 0};
  EXPECT_EQ(PolicyAt(first + kHalf - 1), near);
  EXPECT_EQ(PolicyAt(first + kHalf), any);
  EXPECT_EQ(PolicyAt(second), near) << "through another mapping, as the worker has one";
  second[5] = std::byte{1};
  EXPECT_EQ(NodeAt(second), 0);
  ASSERT_EQ(madvise(first, kHalf, MADV_REMOVE), 0);
  EXPECT_EQ(PolicyAt(second), near) << "the memory is gone, the policy is not";
  ASSERT_TRUE(PreferNode(absl::MakeSpan(first, kHalf), kAnyNode).ok());
  EXPECT_EQ(PolicyAt(second), any);
  munmap(first, 2 * kHalf);
  munmap(second, 2 * kHalf);
}

TEST_F(PreferNodeTest, ThePoolsMemoryLiesWhereItIsAskedFor) {
  StagingPool::Options options{.limit_bytes = 4 * 65536, .initial_bytes = 65536, .buffer_bytes = 65536, .shared = true};
  options.place = [](absl::Span<std::byte> range, int node) { EXPECT_TRUE(PreferNode(range, node).ok()); };
  const auto pool = *StagingPool::Start(options);
  Cancellation cancel;
  const auto expected = pool->Expect("save", 2);
  const StagingBuffer near = *pool->Acquire(cancel, 0), any = *pool->Acquire(cancel);
  EXPECT_EQ(PolicyAt(near.data()), (Policy{MPOL_PREFERRED, 1}));
  EXPECT_EQ(NodeAt(near.data()), 0);
  EXPECT_EQ(PolicyAt(any.data()), (Policy{MPOL_DEFAULT, 0}));
}

TEST_F(PreferNodeTest, ANodeThatIsNotThereIsRefused) {
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const auto range = absl::MakeSpan(static_cast<std::byte*>(page), 4096);
  EXPECT_FALSE(PreferNode(range, 1023).ok());
  EXPECT_FALSE(PreferNode(range, 1024).ok());
  EXPECT_EQ(PolicyAt(page), (Policy{MPOL_DEFAULT, 0}));
  munmap(page, 4096);
}

}  // namespace
}  // namespace keepstep::daemon
