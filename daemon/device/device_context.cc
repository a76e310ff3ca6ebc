#include "daemon/device/device_context.h"

#include <cstring>
#include <utility>

namespace keepstep::daemon {
namespace {

DeviceFault Refused(std::string text) { return {DeviceFault::kRefused, std::move(text)}; }

}  // namespace

// From 700 (an illegal address) to 720, where what a context holds is lost, and what a dead device or a driver that
// goes away gives. CUDA Driver API, "CUresult".
bool FatalError(CUresult result) {
  switch (result) {
    case CUDA_ERROR_DEINITIALIZED:
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_CONTAINED:
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
    case CUDA_ERROR_SYSTEM_NOT_READY:
    case CUDA_ERROR_UNKNOWN:
      return true;
    case CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED:  // among the others by number alone
    case CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED:
    case CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED:
    case CUDA_ERROR_PEER_ACCESS_NOT_ENABLED:
    case CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE:
      return false;
    default:
      return result >= CUDA_ERROR_ILLEGAL_ADDRESS && result <= CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
  }
}

DeviceFault DeviceContext::Check(CUresult result, const char* what) const {
  if (result == CUDA_SUCCESS) return {};
  return {static_cast<int32_t>(result), std::string(what) + ": " + cu_.Describe(result)};
}

DeviceFault DeviceContext::Open(const GpuUuid& gpu, absl::Span<std::byte> memory, size_t pin_bytes,
                                const std::string& sysfs, std::unique_ptr<DeviceContext>* context) {
  std::string why;
  const cuda::Driver* driver = cuda::LoadDriver(&why);
  if (driver == nullptr) return Refused(why);
  std::unique_ptr<DeviceContext> made(new DeviceContext(*driver, memory, pin_bytes));
  DeviceFault fault = made->Check(driver->cuInit(0), "cuInit");
  if (fault.ok()) fault = made->FindDevice(gpu);
  CUcontext primary = nullptr;
  if (fault.ok()) {
    made->nearness_ = StayNear(*driver, made->device_, sysfs);  // before a context: what it allocates here is near too
    fault = made->Check(driver->cuDevicePrimaryCtxRetain(&primary, made->device_), "cuDevicePrimaryCtxRetain");
  }
  if (fault.ok()) fault = made->Check(driver->cuCtxSetCurrent(primary), "cuCtxSetCurrent");
  for (CUstream* stream : {&made->out_, &made->in_, &made->out_done_, &made->in_done_}) {
    if (!fault.ok()) return fault;
    fault = made->Check(driver->cuStreamCreateWithPriority(stream, CU_STREAM_NON_BLOCKING, 0), "cuStreamCreate");
  }
  if (fault.ok()) *context = std::move(made);
  return fault;
}

DeviceContext::~DeviceContext() = default;

DeviceFault DeviceContext::FindDevice(const GpuUuid& gpu) {
  int count = 0;
  if (DeviceFault fault = Check(cu_.cuDeviceGetCount(&count), "cuDeviceGetCount"); !fault.ok()) return fault;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    CUuuid uuid{};
    DeviceFault fault = Check(cu_.cuDeviceGet(&device_, ordinal), "cuDeviceGet");
    if (fault.ok()) fault = Check(cu_.cuDeviceGetUuid(&uuid, device_), "cuDeviceGetUuid");
    if (!fault.ok()) return fault;
    if (std::memcmp(uuid.bytes, gpu.data(), gpu.size()) == 0) return {};
  }
  return Refused("this machine's driver shows no GPU of this UUID");
}

DeviceFault DeviceContext::Map(uint64_t number, const WorkerMap& how, int descriptor) {
  if (mappings_.contains(number)) return Refused("a mapping's number was used again");
  Mapping mapping{.size_bytes = how.size_bytes, .kind = how.kind};
  DeviceFault fault = how.kind == HandleKind::kIpc ? MapIpc(how, &mapping) : MapDescriptor(how, descriptor, &mapping);
  if (fault.ok()) mappings_[number] = mapping;
  return fault;
}

DeviceFault DeviceContext::MapIpc(const WorkerMap& how, Mapping* mapping) {
  CUipcMemHandle handle;
  static_assert(sizeof(handle) == sizeof(how.ipc));
  std::memcpy(&handle, how.ipc.data(), sizeof(handle));
  DeviceFault fault = Check(cu_.cuIpcOpenMemHandle(&mapping->address, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
                            "cuIpcOpenMemHandle");
  if (!fault.ok()) return fault;
  CUdeviceptr base = 0;
  size_t size_bytes = 0;
  fault = Check(cu_.cuMemGetAddressRange(&base, &size_bytes, mapping->address), "cuMemGetAddressRange");
  if (fault.ok() && size_bytes < how.size_bytes) {
    fault = Refused("the allocation has " + std::to_string(size_bytes) + " bytes, not the " +
                    std::to_string(how.size_bytes) + " that were named");
  }
  if (!fault.ok()) (void)cu_.cuIpcCloseMemHandle(mapping->address);
  return fault;
}

DeviceFault DeviceContext::MapDescriptor(const WorkerMap& how, int descriptor, Mapping* mapping) {
  const DeviceFault fault = Check(cu_.cuMemImportFromShareableHandle(
                                      &mapping->handle, reinterpret_cast<void*>(static_cast<intptr_t>(descriptor)),
                                      CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
                                  "cuMemImportFromShareableHandle");
  return fault.ok() ? MapHandle(how.writable != 0, mapping) : fault;
}

// Maps `mapping->handle`, or lets go of it. Each step undoes what came before it when it fails.
DeviceFault DeviceContext::MapHandle(bool writable, Mapping* mapping) {
  const size_t size_bytes = mapping->size_bytes;
  DeviceFault fault = Check(cu_.cuMemAddressReserve(&mapping->address, size_bytes, 0, 0, 0), "cuMemAddressReserve");
  if (!fault.ok()) {
    (void)cu_.cuMemRelease(mapping->handle);
    return fault;
  }
  fault = Check(cu_.cuMemMap(mapping->address, size_bytes, 0, mapping->handle, 0), "cuMemMap");
  if (fault.ok()) {
    const CUmemAccessDesc access{
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device_},
        .flags = writable ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_READ};
    fault = Check(cu_.cuMemSetAccess(mapping->address, size_bytes, &access, 1), "cuMemSetAccess");
    if (!fault.ok()) (void)cu_.cuMemUnmap(mapping->address, size_bytes);
  }
  if (!fault.ok()) {
    (void)cu_.cuMemAddressFree(mapping->address, size_bytes);
    (void)cu_.cuMemRelease(mapping->handle);
  }
  return fault;
}

DeviceFault DeviceContext::UnmapHandle(const Mapping& mapping) {
  DeviceFault fault = Check(cu_.cuMemUnmap(mapping.address, mapping.size_bytes), "cuMemUnmap");
  if (fault.ok()) fault = Check(cu_.cuMemAddressFree(mapping.address, mapping.size_bytes), "cuMemAddressFree");
  if (fault.ok()) fault = Check(cu_.cuMemRelease(mapping.handle), "cuMemRelease");
  fault.unsafe = !fault.ok();
  return fault;
}

DeviceFault DeviceContext::Unmap(uint64_t number) {
  const auto found = mappings_.find(number);
  if (found == mappings_.end()) return Refused("no such mapping");
  const Mapping mapping = found->second;
  mappings_.erase(found);
  if (mapping.kind == HandleKind::kDescriptor) return UnmapHandle(mapping);
  DeviceFault fault = Check(cu_.cuIpcCloseMemHandle(mapping.address), "cuIpcCloseMemHandle");
  fault.unsafe = !fault.ok();
  return fault;
}

// Zeroes: what it held may have been another user's, and the driver clears memory between processes, not within one.
DeviceFault DeviceContext::Allocate(uint64_t size_bytes, storage::UniqueFd* descriptor) {
  const CUmemAllocationProp properties{.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                       .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                       .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device_}};
  Mapping made{.size_bytes = size_bytes, .kind = HandleKind::kDescriptor};
  DeviceFault fault = Check(cu_.cuMemCreate(&made.handle, size_bytes, &properties, 0), "cuMemCreate");
  if (fault.ok()) fault = MapHandle(/*writable=*/true, &made);
  if (!fault.ok()) return fault;
  fault = Check(cu_.cuMemsetD8Async(made.address, 0, size_bytes, nullptr), "cuMemsetD8Async");
  if (fault.ok()) {
    fault = Check(cu_.cuStreamSynchronize(nullptr), "cuStreamSynchronize");
    fault.unsafe = !fault.ok();  // it may be written yet
    if (fault.unsafe) return fault;
  }
  int exported = -1;
  if (fault.ok()) {
    fault = Check(cu_.cuMemExportToShareableHandle(&exported, made.handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                  "cuMemExportToShareableHandle");
  }
  if (fault.ok()) *descriptor = storage::UniqueFd(exported);
  const DeviceFault unmapped = UnmapHandle(made);
  return fault.ok() || unmapped.unsafe ? unmapped : fault;
}

DeviceFault DeviceContext::CheckRun(const WorkerCopyRun& run) const {
  const auto found = mappings_.find(run.mapping);
  if (found == mappings_.end()) return Refused("a copy of memory that is not mapped");
  if (run.size_bytes > found->second.size_bytes ||
      run.device_offset_bytes > found->second.size_bytes - run.size_bytes || run.size_bytes > memory_.size() ||
      run.host_offset_bytes > memory_.size() - run.size_bytes) {
    return Refused("a copy leaves its memory");
  }
  return {};
}

// Refused (a limit on locked memory): copies from memory that is not pinned are slower, and as right.
void DeviceContext::Pin(uint64_t offset_bytes, uint64_t size_bytes) {
  for (size_t i = offset_bytes / pin_bytes_; i <= (offset_bytes + size_bytes - 1) / pin_bytes_; ++i) {
    if (pinned_[i]) continue;
    pinned_[i] = true;
    const size_t begin = i * pin_bytes_;
    (void)cu_.cuMemHostRegister(memory_.data() + begin, std::min(pin_bytes_, memory_.size() - begin), 0);
  }
}

void DeviceContext::PinSome(uint64_t* offset_bytes, uint64_t* size_bytes) {
  if (*size_bytes > memory_.size() || *offset_bytes > memory_.size() - *size_bytes) *size_bytes = 0;
  bool done = false;
  while (*size_bytes > 0 && !done) {
    const uint64_t piece = *offset_bytes / pin_bytes_;
    const uint64_t take = std::min(*size_bytes, (piece + 1) * pin_bytes_ - *offset_bytes);
    done = !pinned_[piece];
    Pin(*offset_bytes, take);
    *offset_bytes += take;
    *size_bytes -= take;
  }
}

struct DeviceContext::DoneCall {
  std::function<void()> done;
  static void Run(void* self) {
    const std::unique_ptr<DoneCall> call(static_cast<DoneCall*>(self));
    call->done();
  }
};

// `fault`, once nothing that was queued can land in bytes that are somebody else's by then.
DeviceFault DeviceContext::Drained(CUstream stream, DeviceFault fault) const {
  fault.unsafe = cu_.cuStreamSynchronize(stream) != CUDA_SUCCESS;
  return fault;
}

// Not OK: nothing is called, and `stream` has run dry, or the failure is fatal.
DeviceFault DeviceContext::CallAfter(CUstream stream, CUstream notify, std::function<void()> done) {
  auto call = std::make_unique<DoneCall>();
  call->done = std::move(done);
  CUevent event = nullptr;
  DeviceFault fault = Check(cu_.cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
  if (fault.ok()) fault = Check(cu_.cuEventRecord(event, stream), "cuEventRecord");
  if (fault.ok()) fault = Check(cu_.cuStreamWaitEvent(notify, event, 0), "cuStreamWaitEvent");
  if (event != nullptr) (void)cu_.cuEventDestroy(event);  // the driver keeps it for as long as it is waited for
  if (fault.ok()) fault = Check(cu_.cuLaunchHostFunc(notify, DoneCall::Run, call.get()), "cuLaunchHostFunc");
  if (!fault.ok()) return Drained(stream, std::move(fault));
  (void)call.release();  // Run's
  return fault;
}

DeviceFault DeviceContext::Copy(bool into_device, absl::Span<const WorkerCopyRun> runs, std::function<void()> done) {
  const CUstream stream = into_device ? in_ : out_;
  for (const WorkerCopyRun& run : runs) {
    if (DeviceFault fault = CheckRun(run); !fault.ok()) return fault;
  }
  for (const WorkerCopyRun& run : runs) {
    if (run.size_bytes == 0) continue;
    Pin(run.host_offset_bytes, run.size_bytes);
    const CUdeviceptr there = mappings_[run.mapping].address + run.device_offset_bytes;
    std::byte* here = memory_.data() + run.host_offset_bytes;
    DeviceFault fault =
        into_device ? Check(cu_.cuMemcpyHtoDAsync(there, here, run.size_bytes, stream), "cuMemcpyHtoDAsync")
                    : Check(cu_.cuMemcpyDtoHAsync(here, there, run.size_bytes, stream), "cuMemcpyDtoHAsync");
    if (!fault.ok()) return Drained(stream, std::move(fault));
  }
  return CallAfter(stream, into_device ? in_done_ : out_done_, std::move(done));
}

DeviceFault DeviceContext::OpenEvent(const IpcHandle& bytes, CUevent* event) {
  CUipcEventHandle handle;
  static_assert(sizeof(handle) == sizeof(bytes));
  std::memcpy(&handle, bytes.data(), sizeof(handle));
  return Check(cu_.cuIpcOpenEventHandle(event, handle), "cuIpcOpenEventHandle");
}

DeviceFault DeviceContext::Reached(CUevent event, bool* reached) {
  const CUresult result = cu_.cuEventQuery(event);
  *reached = result != CUDA_ERROR_NOT_READY;
  if (*reached) (void)cu_.cuEventDestroy(event);
  return result == CUDA_ERROR_NOT_READY ? DeviceFault{} : Check(result, "cuEventQuery");
}

void DeviceContext::CloseEvent(CUevent event) { (void)cu_.cuEventDestroy(event); }

DeviceFault DeviceContext::Look() {
  for (CUstream stream : {out_, in_}) {
    const CUresult result = cu_.cuStreamQuery(stream);
    if (result != CUDA_SUCCESS && result != CUDA_ERROR_NOT_READY) return Check(result, "cuStreamQuery");
  }
  return {};
}

}  // namespace keepstep::daemon
