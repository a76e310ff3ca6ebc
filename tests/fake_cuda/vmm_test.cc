// Virtual memory management, in one process and by descriptor.

#include <fcntl.h>
#include <unistd.h>

#include <vector>

#include "tests/fake_cuda/driver_library.h"
#include "tests/fake_cuda/peer.h"

namespace keepstep::fake_cuda {
namespace {

constexpr CUmemAccess_flags kNone = CU_MEM_ACCESS_FLAGS_PROT_NONE;
constexpr CUmemAccess_flags kRead = CU_MEM_ACCESS_FLAGS_PROT_READ;
constexpr CUmemAccess_flags kReadWrite = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
constexpr auto kDescriptor = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

CUmemAllocationProp Properties(bool exportable) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  if (exportable) properties.requestedHandleTypes = kDescriptor;
  return properties;
}

size_t Granularity() {
  size_t granularity = 0;
  const CUmemAllocationProp properties = Properties(false);
  REQUIRE(CU(cuMemGetAllocationGranularity)(&granularity, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM) ==
          CUDA_SUCCESS);
  return granularity;
}

CUmemGenericAllocationHandle Create(size_t size_bytes, bool exportable) {
  CUmemGenericAllocationHandle handle = 0;
  const CUmemAllocationProp properties = Properties(exportable);
  REQUIRE(CU(cuMemCreate)(&handle, size_bytes, &properties, 0) == CUDA_SUCCESS);
  return handle;
}

CUdeviceptr Reserve(size_t size_bytes) {
  CUdeviceptr pointer = 0;
  REQUIRE(CU(cuMemAddressReserve)(&pointer, size_bytes, 0, 0, 0) == CUDA_SUCCESS);
  return pointer;
}

CUresult Allow(CUdeviceptr pointer, size_t size_bytes, CUmemAccess_flags flags) {
  CUmemAccessDesc access{};
  access.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  access.flags = flags;
  return CU(cuMemSetAccess)(pointer, size_bytes, &access, 1);
}

// Maps `handle` at new addresses.
CUdeviceptr Map(CUmemGenericAllocationHandle handle, size_t size_bytes, CUmemAccess_flags flags) {
  const CUdeviceptr pointer = Reserve(size_bytes);
  REQUIRE(CU(cuMemMap)(pointer, size_bytes, 0, handle, 0) == CUDA_SUCCESS);
  if (flags != kNone) REQUIRE(Allow(pointer, size_bytes, flags) == CUDA_SUCCESS);
  return pointer;
}

void Unmap(CUdeviceptr pointer, size_t size_bytes) {
  EXPECT_CUDA(CU(cuMemUnmap)(pointer, size_bytes));
  EXPECT_CUDA(CU(cuMemAddressFree)(pointer, size_bytes));
}

unsigned char At(CUdeviceptr pointer) {
  unsigned char byte = 0;
  EXPECT_CUDA(CU(cuMemcpyDtoH)(&byte, pointer, 1));
  return byte;
}

class VmmTest : public DriverTest {
 protected:
  void SetUp() override {
    DriverTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (!Attribute(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) ||
        !Attribute(CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED)) {
      GTEST_SKIP() << "the driver cannot export virtual memory by descriptor";
    }
    granule_ = Granularity();
  }

  size_t granule_ = 0;
};

// As an expandable segment grows: one range of addresses, piece after piece.
TEST_F(VmmTest, PiecesSideBySideAreOneMemory) {
  const CUdeviceptr pointer = Reserve(4 * granule_);
  for (int i = 0; i < 3; ++i) {
    const CUmemGenericAllocationHandle handle = Create(granule_, true);
    ASSERT_CUDA(CU(cuMemMap)(pointer + i * granule_, granule_, 0, handle, 0));
    ASSERT_CUDA(CU(cuMemRelease)(handle));  // the mapping keeps it
  }
  ASSERT_CUDA(Allow(pointer, 3 * granule_, kReadWrite));
  std::vector<unsigned char> bytes(2 * granule_), found(2 * granule_);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i * 7 + i / 251);
  ASSERT_CUDA(CU(cuMemcpyHtoD)(pointer + granule_ / 2, bytes.data(), bytes.size()));
  ASSERT_CUDA(CU(cuMemcpyDtoH)(found.data(), pointer + granule_ / 2, found.size()));
  EXPECT_TRUE(bytes == found);
  EXPECT_NE(CU(cuMemcpyDtoH)(found.data(), pointer + 2 * granule_, 2 * granule_), CUDA_SUCCESS);
  CUdeviceptr base = 0;
  size_t size_bytes = 0;
  ASSERT_CUDA(CU(cuMemGetAddressRange)(&base, &size_bytes, pointer + granule_ + 9));
  EXPECT_EQ(base, pointer + granule_);
  EXPECT_EQ(size_bytes, granule_);
  ASSERT_CUDA(CU(cuMemUnmap)(pointer, 3 * granule_));
  ASSERT_CUDA(CU(cuMemAddressFree)(pointer, 4 * granule_));
}

TEST_F(VmmTest, LegacyHandlesAreRefused) {
  const CUmemGenericAllocationHandle handle = Create(granule_, true);
  const CUdeviceptr pointer = Map(handle, granule_, kReadWrite);
  CUipcMemHandle legacy;
  EXPECT_EQ(CU(cuIpcGetMemHandle)(&legacy, pointer), CUDA_ERROR_INVALID_VALUE);
  int capable = 1;
  ASSERT_CUDA(CU(cuPointerGetAttribute)(&capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, pointer));
  EXPECT_EQ(capable, 0);
  Unmap(pointer, granule_);
  EXPECT_CUDA(CU(cuMemRelease)(handle));
}

TEST_F(VmmTest, AHandleIsFoundFromAnAddressAndCounted) {
  const CUmemGenericAllocationHandle handle = Create(granule_, true);
  const CUdeviceptr pointer = Map(handle, granule_, kReadWrite);
  ASSERT_CUDA(CU(cuMemRelease)(handle));
  CUmemGenericAllocationHandle found = 0;
  ASSERT_CUDA(CU(cuMemRetainAllocationHandle)(&found, reinterpret_cast<void*>(pointer + 77)));
  CUmemAllocationProp properties{};
  ASSERT_CUDA(CU(cuMemGetAllocationPropertiesFromHandle)(&properties, found));
  EXPECT_EQ(properties.requestedHandleTypes, kDescriptor);
  EXPECT_EQ(properties.location.id, 0);
  int fd = -1;
  ASSERT_CUDA(CU(cuMemExportToShareableHandle)(&fd, found, kDescriptor, 0));
  close(fd);
  EXPECT_CUDA(CU(cuMemRelease)(found));
  if (IsFake()) {
    EXPECT_EQ(CU(cuMemRelease)(found), CUDA_ERROR_INVALID_VALUE);
  }
  Unmap(pointer, granule_);
  CUdeviceptr plain = 0;
  ASSERT_CUDA(CU(cuMemAlloc)(&plain, 4096));
  EXPECT_NE(CU(cuMemRetainAllocationHandle)(&found, reinterpret_cast<void*>(plain)), CUDA_SUCCESS);
  EXPECT_CUDA(CU(cuMemFree)(plain));
}

TEST_F(VmmTest, OnlyWhatWasMadeForItIsExported) {
  const CUmemGenericAllocationHandle handle = Create(granule_, false);
  int fd = -1;
  EXPECT_NE(CU(cuMemExportToShareableHandle)(&fd, handle, kDescriptor, 0), CUDA_SUCCESS);
  EXPECT_CUDA(CU(cuMemRelease)(handle));
}

TEST_F(VmmTest, SizesAreWholeGranules) {
  CUmemGenericAllocationHandle handle = 0;
  const CUmemAllocationProp properties = Properties(true);
  EXPECT_EQ(CU(cuMemCreate)(&handle, granule_ + 4096, &properties, 0), CUDA_ERROR_INVALID_VALUE);
  CUdeviceptr pointer = 0;
  EXPECT_EQ(CU(cuMemAddressReserve)(&pointer, granule_ + 1, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(VmmTest, MappingsAreWholeAndDoNotOverlap) {
  const CUmemGenericAllocationHandle handle = Create(2 * granule_, false);
  const CUdeviceptr pointer = Reserve(2 * granule_);
  ASSERT_CUDA(CU(cuMemMap)(pointer, 2 * granule_, 0, handle, 0));
  EXPECT_NE(CU(cuMemMap)(pointer, 2 * granule_, 0, handle, 0), CUDA_SUCCESS);
  if (IsFake()) {
    EXPECT_EQ(CU(cuMemUnmap)(pointer, granule_), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(CU(cuMemAddressFree)(pointer, 2 * granule_), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(CU(cuMemFree)(pointer), CUDA_ERROR_INVALID_VALUE);
  }
  Unmap(pointer, 2 * granule_);
  EXPECT_CUDA(CU(cuMemRelease)(handle));
}

TEST_F(VmmTest, WhatIsNoMemoryIsNotImported) {
  const int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  CUmemGenericAllocationHandle handle = 0;
  EXPECT_NE(CU(cuMemImportFromShareableHandle)(&handle, reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                               kDescriptor),
            CUDA_SUCCESS);
  close(fd);
}

// Descriptors of two pieces, 0x31 and 0x32; then, at a word, the last byte of the second.
PEER(vmm_exporter) {
  StartGpu();
  const size_t granule = Granularity();
  CUdeviceptr last = 0;
  for (unsigned char content : {0x31, 0x32}) {
    const CUmemGenericAllocationHandle handle = Create(granule, true);
    last = Map(handle, granule, kReadWrite);
    REQUIRE(CU(cuMemsetD8)(last, content, granule) == CUDA_SUCCESS);
    REQUIRE(CU(cuCtxSynchronize)() == CUDA_SUCCESS);
    int fd = -1;
    REQUIRE(CU(cuMemExportToShareableHandle)(&fd, handle, kDescriptor, 0) == CUDA_SUCCESS);
    channel.SendDescriptor(fd);
    close(fd);
  }
  channel.Receive<char>();
  unsigned char byte = 0;
  REQUIRE(CU(cuMemcpyDtoH)(&byte, last + granule - 1, 1) == CUDA_SUCCESS);
  channel.Send(byte);
  channel.Receive<char>();
}

CUmemGenericAllocationHandle Import(int fd) {
  CUmemGenericAllocationHandle handle = 0;
  EXPECT_CUDA(CU(cuMemImportFromShareableHandle)(&handle, reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                                 kDescriptor));
  close(fd);
  return handle;
}

TEST_F(VmmTest, MemoryIsSharedByDescriptorAndOutlivesItsExporter) {
  Peer peer("vmm_exporter");
  const CUmemGenericAllocationHandle first = Import(peer.channel().ReceiveDescriptor());
  const CUmemGenericAllocationHandle second = Import(peer.channel().ReceiveDescriptor());
  const CUdeviceptr one = Map(first, granule_, kRead);
  const CUdeviceptr two = Map(second, granule_, kReadWrite);
  ASSERT_CUDA(CU(cuMemRelease)(second));
  EXPECT_EQ(At(one + granule_ - 1), 0x31);
  EXPECT_EQ(At(two), 0x32);
  ASSERT_CUDA(CU(cuMemsetD8)(two + granule_ - 1, 0x99, 1));
  ASSERT_CUDA(CU(cuCtxSynchronize)());
  peer.channel().Send('r');
  EXPECT_EQ(peer.channel().Receive<unsigned char>(), 0x99);
  peer.Kill();
  std::vector<unsigned char> bytes(granule_), expected(granule_, 0x31);
  ASSERT_CUDA(CU(cuMemcpyDtoH)(bytes.data(), one, granule_));
  EXPECT_TRUE(bytes == expected);
  EXPECT_EQ(At(two + granule_ - 1), 0x99);
  Unmap(one, granule_);
  Unmap(two, granule_);
  // The handle alone keeps it too.
  const CUdeviceptr again = Map(first, granule_, kRead);
  EXPECT_EQ(At(again), 0x31);
  Unmap(again, granule_);
  EXPECT_CUDA(CU(cuMemRelease)(first));
}

// A mapping for saves is read-only: a stray write must not reach the trainer's memory. The error is the
// context's from then on, and every call returns it.
PEER(write_to_read_only) {
  StartGpu();
  const size_t granule = Granularity();
  const CUdeviceptr pointer = Map(Create(granule, false), granule, kRead);
  CUstream stream = nullptr;
  REQUIRE(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS);
  CU(cuMemsetD8Async)(pointer, 1, 16, stream);
  REQUIRE(CU(cuStreamSynchronize)(stream) == CUDA_ERROR_ILLEGAL_ADDRESS);
  REQUIRE(CU(cuStreamSynchronize)(stream) == CUDA_ERROR_ILLEGAL_ADDRESS);
  CUdeviceptr another = 0;
  REQUIRE(CU(cuMemAlloc)(&another, 4096) == CUDA_ERROR_ILLEGAL_ADDRESS);
  char byte = 0;
  REQUIRE(CU(cuMemcpyDtoH)(&byte, pointer, 1) == CUDA_ERROR_ILLEGAL_ADDRESS);
  REQUIRE(CU(cuCtxSynchronize)() == CUDA_ERROR_ILLEGAL_ADDRESS);
}

TEST_F(VmmTest, AWriteToReadOnlyMemoryEndsTheContext) { EXPECT_TRUE(Peer("write_to_read_only").Ended()); }

// Freed while a copy was queued: the copy finds nothing there.
PEER(read_unmapped) {
  StartGpu();
  const size_t granule = Granularity();
  const CUdeviceptr pointer = Map(Create(granule, false), granule, kReadWrite);
  void* page = nullptr;
  CUstream stream = nullptr;
  REQUIRE(CU(cuMemAllocHost)(&page, 4096) == CUDA_SUCCESS);
  *static_cast<uint32_t*>(page) = 0;
  REQUIRE(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS);
  const auto gate = reinterpret_cast<CUdeviceptr>(page);
  REQUIRE(CU(cuStreamWaitValue32)(stream, gate, 1, CU_STREAM_WAIT_VALUE_GEQ) == CUDA_SUCCESS);
  REQUIRE(CU(cuMemcpyDtoHAsync)(static_cast<char*>(page) + 64, pointer, 64, stream) == CUDA_SUCCESS);
  REQUIRE(CU(cuMemUnmap)(pointer, granule) == CUDA_SUCCESS);
  std::atomic_ref(*static_cast<uint32_t*>(page)) = 1;
  REQUIRE(CU(cuStreamSynchronize)(stream) == CUDA_ERROR_ILLEGAL_ADDRESS);
}

TEST_F(VmmTest, ACopyFromMemoryThatWasUnmappedEndsTheContext) {
  SKIP_UNLESS_FAKE("its cuMemUnmap may wait for the copy, which would wait for good");
  EXPECT_TRUE(Peer("read_unmapped").Ended());
}

}  // namespace
}  // namespace keepstep::fake_cuda
