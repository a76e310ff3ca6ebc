#include "client/copy_thread.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <vector>

namespace keepstep::client {
namespace {

constexpr uint64_t kWindowBytes = 4096;

class CopyTest : public testing::Test {
 protected:
  CopyTest() { buffers_.Replace({{Address(100), 200}}); }

  uint64_t Address(uint64_t offset) { return reinterpret_cast<uint64_t>(memory_.data()) + offset; }
  int Check(uint64_t address, uint64_t size_bytes, uint64_t window_offset_bytes, bool into_client = false) {
    CopyRequest request;
    request.head.into_client = into_client;
    request.entries.push_back({address, size_bytes, window_offset_bytes});
    return CheckCopy(request, buffers_, kWindowBytes);
  }

  std::vector<std::byte> memory_ = std::vector<std::byte>(1000);
  BufferTable buffers_;
};

TEST_F(CopyTest, TakesWhatLiesInsideABuffer) {
  EXPECT_EQ(Check(Address(100), 200, 0), 0);
  EXPECT_EQ(Check(Address(299), 1, kWindowBytes - 1), 0);
}

// A hostile or broken daemon must not read or write memory that was not registered.
TEST_F(CopyTest, RefusesMemoryOutsideTheBuffers) {
  EXPECT_EQ(Check(Address(99), 1, 0), EFAULT);
  EXPECT_EQ(Check(Address(100), 201, 0), EFAULT);
  EXPECT_EQ(Check(Address(300), 1, 0), EFAULT);
  EXPECT_EQ(Check(Address(200), UINT64_MAX, 0), EFAULT);
  EXPECT_EQ(Check(Address(200), UINT64_MAX - Address(200) + 1, 0), EFAULT);
  EXPECT_EQ(Check(0, 8, 0), EFAULT);
}

TEST_F(CopyTest, RefusesOffsetsOutsideTheWindow) {
  EXPECT_EQ(Check(Address(100), 8, kWindowBytes - 7), EFAULT);
  EXPECT_EQ(Check(Address(100), 8, kWindowBytes + 1), EFAULT);
  EXPECT_EQ(Check(Address(100), 8, UINT64_MAX), EFAULT);
}

TEST_F(CopyTest, WritesOnlyDuringALoad) {
  EXPECT_EQ(Check(Address(100), 8, 0, /*into_client=*/true), EACCES);
  BufferTable::LoadScope load(&buffers_);
  EXPECT_EQ(Check(Address(100), 8, 0, /*into_client=*/true), 0);
}

TEST_F(CopyTest, OverlappingBuffersCoverTheirUnionFromEachStart) {
  buffers_.Replace({{1000, 500}, {1100, 10}, {1400, 300}});
  EXPECT_TRUE(buffers_.Contains(1100, 400));
  EXPECT_TRUE(buffers_.Contains(1450, 250));
  EXPECT_FALSE(buffers_.Contains(1450, 251));
  EXPECT_FALSE(buffers_.Contains(1700, 1));
}

// The daemon reads on from one tensor of an allocation to the next.
TEST_F(CopyTest, BuffersThatTouchAreOneRun) {
  buffers_.Replace({{1000, 100}, {1100, 100}, {1201, 100}});
  EXPECT_TRUE(buffers_.Contains(1000, 200));
  EXPECT_TRUE(buffers_.Contains(1050, 100));
  EXPECT_FALSE(buffers_.Contains(1000, 201));
  EXPECT_FALSE(buffers_.Contains(1150, 100));
}

TEST(RunCopy, ManyThreadsMoveEveryByteBothWays) {
  constexpr size_t kBytes = (17 << 20) + 13;
  std::vector<std::byte> source(kBytes), window(kBytes), back(kBytes);
  for (size_t i = 0; i < kBytes; ++i) source[i] = static_cast<std::byte>(i * 31 >> 3);
  const auto requestFor = [&](std::vector<std::byte>& memory, bool into_client) {
    CopyRequest request;
    request.head.into_client = into_client;
    const auto address = reinterpret_cast<uint64_t>(memory.data());
    constexpr uint64_t kCut = (5 << 20) + 1;
    request.entries = {{address, kCut, kBytes - kCut}, {address + kCut, kBytes - kCut, 0}};
    return request;
  };
  RunCopy(requestFor(source, false), window.data(), 4);
  RunCopy(requestFor(back, true), window.data(), 3);
  EXPECT_EQ(std::memcmp(source.data(), back.data(), kBytes), 0);
}

}  // namespace
}  // namespace keepstep::client
