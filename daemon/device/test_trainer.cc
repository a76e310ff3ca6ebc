#include "daemon/device/test_trainer.h"

#include <cstring>
#include <map>

#include "tests/fake_cuda/driver_library.h"

namespace keepstep::daemon {
namespace {

using fake_cuda::Channel;

enum class Verb : uint32_t { kAllocate, kAllocatePiece, kFree, kFill, kRead, kQueueFill, kRelease };

struct Order {
  Verb verb{};
  uint32_t seed = 0;
  uint64_t address = 0;
  int64_t size_bytes = 0;
};

struct Answer {
  DeclaredMemory memory;
  Fence fence;
};

constexpr size_t kRangeBytes = size_t{1} << 30;  // of addresses for pieces

std::vector<uint8_t> Pattern(uint32_t seed, int64_t size_bytes) {
  std::vector<uint8_t> bytes(size_bytes);
  for (int64_t i = 0; i < size_bytes; ++i) bytes[i] = PatternByte(seed, i);
  return bytes;
}

class Process {
 public:
  explicit Process(Channel& channel) : channel_(channel) {
    fake_cuda::StartGpu();
    CUdevice device = 0;
    CUuuid uuid{};
    REQUIRE(CU(cuCtxGetDevice)(&device) == CUDA_SUCCESS);
    REQUIRE(CU(cuDeviceGetUuid)(&uuid, device) == CUDA_SUCCESS);
    std::memcpy(gpu_.data(), uuid.bytes, gpu_.size());
    REQUIRE(CU(cuMemAddressReserve)(&range_, kRangeBytes, 0, 0, 0) == CUDA_SUCCESS);
    REQUIRE(CU(cuStreamCreate)(&stream_, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS);
    REQUIRE(CU(cuMemHostRegister)(&gate_, sizeof(gate_), CU_MEMHOSTREGISTER_DEVICEMAP) == CUDA_SUCCESS);
    REQUIRE(CU(cuMemHostGetDevicePointer)(&gate_address_, &gate_, 0) == CUDA_SUCCESS);
  }

  void Obey(const Order& order) {
    switch (order.verb) {
      case Verb::kAllocate:
        return Allocate(order);
      case Verb::kAllocatePiece:
        return AllocatePiece(order);
      case Verb::kFree:
        return Free(order);
      case Verb::kFill:
        Fill(order.address, order);
        return channel_.Send(char{});
      case Verb::kRead:
        return Read(order);
      case Verb::kQueueFill:
        return QueueFill(order);
      case Verb::kRelease:
        __atomic_store_n(&gate_, gate_ + 1, __ATOMIC_SEQ_CST);
        return channel_.Send(char{});
    }
  }

 private:
  void Fill(CUdeviceptr address, const Order& order) {
    const std::vector<uint8_t> bytes = Pattern(order.seed, order.size_bytes);
    REQUIRE(CU(cuMemcpyHtoD)(address, bytes.data(), bytes.size()) == CUDA_SUCCESS);
  }

  void Allocate(const Order& order) {
    Answer answer;
    CUdeviceptr address = 0;
    CUipcMemHandle handle;
    REQUIRE(CU(cuMemAlloc)(&address, order.size_bytes) == CUDA_SUCCESS);
    Fill(address, order);
    REQUIRE(CU(cuIpcGetMemHandle)(&handle, address) == CUDA_SUCCESS);
    answer.memory = {.address = address, .size_bytes = order.size_bytes, .gpu = gpu_, .kind = HandleKind::kIpc};
    std::memcpy(answer.memory.ipc.data(), &handle, sizeof(handle));
    channel_.Send(answer);
  }

  void AllocatePiece(const Order& order) {
    const CUmemAllocationProp properties{.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                         .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                         .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
    const CUmemAccessDesc access{.location = properties.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle handle = 0;
    const CUdeviceptr address = range_ + used_bytes_;
    REQUIRE(CU(cuMemCreate)(&handle, order.size_bytes, &properties, 0) == CUDA_SUCCESS);
    REQUIRE(CU(cuMemMap)(address, order.size_bytes, 0, handle, 0) == CUDA_SUCCESS);
    REQUIRE(CU(cuMemSetAccess)(address, order.size_bytes, &access, 1) == CUDA_SUCCESS);
    used_bytes_ += order.size_bytes;
    Fill(address, order);
    int descriptor = -1;
    REQUIRE(CU(cuMemExportToShareableHandle)(&descriptor, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0) ==
            CUDA_SUCCESS);
    REQUIRE(CU(cuMemRelease)(handle) == CUDA_SUCCESS);
    pieces_[address] = order.size_bytes;
    Answer answer;
    answer.memory = {
        .address = address, .size_bytes = order.size_bytes, .gpu = gpu_, .kind = HandleKind::kDescriptor};
    channel_.Send(answer);
    channel_.SendDescriptor(descriptor);
    close(descriptor);
  }

  void Free(const Order& order) {
    const auto piece = pieces_.find(order.address);
    if (piece == pieces_.end()) {
      REQUIRE(CU(cuMemFree)(order.address) == CUDA_SUCCESS);
    } else {
      REQUIRE(CU(cuMemUnmap)(order.address, piece->second) == CUDA_SUCCESS);
      pieces_.erase(piece);
    }
    channel_.Send(char{});
  }

  void Read(const Order& order) {
    std::vector<uint8_t> bytes(order.size_bytes);
    REQUIRE(CU(cuMemcpyDtoH)(bytes.data(), order.address, bytes.size()) == CUDA_SUCCESS);
    for (size_t at = 0; at < bytes.size(); at += kPart) {
      Part part{};
      std::memcpy(part.data(), bytes.data() + at, std::min(kPart, bytes.size() - at));
      channel_.Send(part);
    }
  }

  void QueueFill(const Order& order) {
    kept_ = Pattern(order.seed, order.size_bytes);
    CUevent event = nullptr;
    CUipcEventHandle handle;
    REQUIRE(CU(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS) == CUDA_SUCCESS);
    REQUIRE(CU(cuStreamWaitValue32)(stream_, gate_address_, gate_ + 1, CU_STREAM_WAIT_VALUE_GEQ) == CUDA_SUCCESS);
    REQUIRE(CU(cuMemcpyHtoDAsync)(order.address, kept_.data(), kept_.size(), stream_) == CUDA_SUCCESS);
    REQUIRE(CU(cuEventRecord)(event, stream_) == CUDA_SUCCESS);
    REQUIRE(CU(cuIpcGetEventHandle)(&handle, event) == CUDA_SUCCESS);
    Answer answer;
    answer.fence.gpu = gpu_;
    std::memcpy(answer.fence.event.data(), &handle, sizeof(handle));
    channel_.Send(answer);
  }

 public:
  static constexpr size_t kPart = 16'384;
  using Part = std::array<uint8_t, kPart>;

 private:
  Channel& channel_;
  GpuUuid gpu_{};
  CUdeviceptr range_ = 0;
  size_t used_bytes_ = 0;
  std::map<CUdeviceptr, size_t> pieces_;
  CUstream stream_ = nullptr;
  alignas(4096) uint32_t gate_ = 0;
  CUdeviceptr gate_address_ = 0;
  std::vector<uint8_t> kept_;
};

PEER(trainer) {
  static Process process(channel);
  while (true) process.Obey(channel.Receive<Order>());
}

}  // namespace

DeclaredMemory TestTrainer::Allocate(int64_t size_bytes, uint32_t seed) {
  peer_.channel().Send(Order{.verb = Verb::kAllocate, .seed = seed, .size_bytes = size_bytes});
  return peer_.channel().Receive<Answer>().memory;
}

std::pair<DeclaredMemory, storage::UniqueFd> TestTrainer::AllocatePiece(int64_t size_bytes, uint32_t seed) {
  peer_.channel().Send(Order{.verb = Verb::kAllocatePiece, .seed = seed, .size_bytes = size_bytes});
  const DeclaredMemory memory = peer_.channel().Receive<Answer>().memory;
  return {memory, storage::UniqueFd(peer_.channel().ReceiveDescriptor())};
}

void TestTrainer::Free(const DeclaredMemory& memory) {
  peer_.channel().Send(Order{.verb = Verb::kFree, .address = memory.address});
  peer_.channel().Receive<char>();
}

void TestTrainer::Fill(const DeclaredMemory& memory, uint32_t seed) {
  peer_.channel().Send(
      Order{.verb = Verb::kFill, .seed = seed, .address = memory.address, .size_bytes = memory.size_bytes});
  peer_.channel().Receive<char>();
}

std::vector<uint8_t> TestTrainer::Read(const DeclaredMemory& memory) {
  peer_.channel().Send(Order{.verb = Verb::kRead, .address = memory.address, .size_bytes = memory.size_bytes});
  std::vector<uint8_t> bytes(memory.size_bytes);
  for (size_t at = 0; at < bytes.size(); at += Process::kPart) {
    const auto part = peer_.channel().Receive<Process::Part>();
    std::memcpy(bytes.data() + at, part.data(), std::min(Process::kPart, bytes.size() - at));
  }
  return bytes;
}

Fence TestTrainer::QueueFillBehindGate(const DeclaredMemory& memory, uint32_t seed) {
  peer_.channel().Send(
      Order{.verb = Verb::kQueueFill, .seed = seed, .address = memory.address, .size_bytes = memory.size_bytes});
  return peer_.channel().Receive<Answer>().fence;
}

void TestTrainer::Release() {
  peer_.channel().Send(Order{.verb = Verb::kRelease});
  peer_.channel().Receive<char>();
}

}  // namespace keepstep::daemon
