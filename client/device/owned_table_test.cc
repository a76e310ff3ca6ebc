// Memory of a daemon's, mapped into this process by the driver that the loader finds (tests/fake_cuda).

#include "client/device/owned_table.h"

#include <gtest/gtest.h>

#include <cstring>

#include "client/device/test_memory.h"
#include "client/failure.h"
#include "tests/fake_cuda/peer.h"

namespace keepstep::client {
namespace {

using fake_cuda::Peer;

constexpr size_t kBytes = size_t{4} << 20;

// A descriptor of new memory, which nothing else holds.
UniqueFd NewMemory(int device = 0) {
  const CUmemAllocationProp properties{.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                       .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                       .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
  CUmemGenericAllocationHandle handle = 0;
  int fd = -1;
  EXPECT_CUDA(CU(cuMemCreate)(&handle, kBytes, &properties, 0));
  EXPECT_CUDA(CU(cuMemExportToShareableHandle)(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  EXPECT_CUDA(CU(cuMemRelease)(handle));
  return UniqueFd(fd);
}

OwnedPiece PieceOf(uint64_t client, uint64_t ordinal, bool writable) {
  return {.device = 0, .size_bytes = kBytes, .writable = writable,
          .owned = {.client = client, .daemon_pid = 4711, .ordinal = ordinal}};
}

uint64_t Map(const OwnedPiece& piece) {
  auto address = OwnedTable::Get().Map(*cuda::LoadDriver(), std::string(16, 'g'), piece, NewMemory());
  EXPECT_TRUE(address.ok()) << address.status();
  return address.value_or(0);
}

CUresult Write(uint64_t address) {
  CUresult result = CU(cuMemsetD8Async)(address, 0x5a, kBytes, nullptr);
  return result == CUDA_SUCCESS ? CU(cuStreamSynchronize)(nullptr) : result;
}

class OwnedTableTest : public fake_cuda::DriverTest {};

TEST_F(OwnedTableTest, IsFoundByEveryAddressAsWhatTheDaemonLent) {
  const uint64_t address = Map(PieceOf(1, 3, true));
  for (const uint64_t at : {address, address + 4097, address + kBytes - 1}) {
    const auto found = OwnedTable::Get().Find(at);
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(found->address, address);
    EXPECT_EQ(found->size_bytes, kBytes);
    EXPECT_EQ(found->path, DevicePath::kVmm);
    EXPECT_TRUE(found->known);
    EXPECT_EQ(found->owned.ordinal, 3u);
    EXPECT_EQ(found->owned.daemon_pid, 4711);
  }
  EXPECT_FALSE(OwnedTable::Get().Find(address - 1).has_value());
  EXPECT_FALSE(OwnedTable::Get().Find(address + kBytes).has_value());
  Devices devices;
  auto found = devices.Find({{address + 100, 200, "w"}});
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ(found->front().owned.ordinal, 3u);
  EXPECT_EQ(Write(address), CUDA_SUCCESS);
  ASSERT_TRUE(UnmapOwned(address).ok());
  EXPECT_EQ(BlameOf(UnmapOwned(address).status()).reason, "BAD_ARGUMENT");
  EXPECT_FALSE(OwnedTable::Get().Find(address).has_value());
}

// Another daemon is handed the descriptor that this process has kept: the same bytes.
TEST_F(OwnedTableTest, ItsDescriptorIsTheMemory) {
  const uint64_t address = Map(PieceOf(1, 1, true));
  ASSERT_EQ(Write(address), CUDA_SUCCESS);
  Devices devices;
  auto found = devices.Find({{address, kBytes, "w"}});
  ASSERT_TRUE(found.ok()) << found.status();
  auto exported = devices.Export({&found->front()});
  ASSERT_TRUE(exported.ok()) << exported.status();
  auto again = OwnedTable::Get().Map(*cuda::LoadDriver(), "", PieceOf(2, 1, true), std::move(exported->front()));
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_TRUE(UnmapOwned(address).ok());
  unsigned char byte = 0;
  ASSERT_CUDA(CU(cuMemcpyDtoH)(&byte, *again + kBytes - 1, 1));
  EXPECT_EQ(byte, 0x5a);
  ASSERT_TRUE(UnmapOwned(*again).ok());
}

// In a process of its own: after such an error CUDA is of no more use there.
PEER(writes_what_it_may_read) {
  fake_cuda::StartGpu();
  const uint64_t address = Map(PieceOf(7, 1, false)), other = Map(PieceOf(8, 1, false));
  unsigned char byte = 1;
  REQUIRE(CU(cuMemcpyDtoH)(&byte, address, 1) == CUDA_SUCCESS && byte == 0);
  REQUIRE(MakeOwnedWritable(7).ok());
  REQUIRE(Write(address) == CUDA_SUCCESS);
  REQUIRE(Write(other) == CUDA_ERROR_ILLEGAL_ADDRESS);
}

TEST_F(OwnedTableTest, WhatIsForReadingIsNotWrittenUntilItsClientMay) {
  Peer peer("writes_what_it_may_read");
  EXPECT_TRUE(peer.Ended());
}

}  // namespace
}  // namespace keepstep::client
