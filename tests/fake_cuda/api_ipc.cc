// Legacy handles of memory and events.
//
// A handle maps a whole allocation at its base, in another process only. Opening one again in the same
// context counts and gives the same address; who closes more often than opened gets an error.

#include <cstring>

#include "tests/fake_cuda/driver.h"

using namespace keepstep::fake_cuda;

namespace {

static_assert(sizeof(HandleBytes) == sizeof(CUipcMemHandle) &&
              sizeof(HandleBytes) == sizeof(CUipcEventHandle));

// What is wrong with a handle before anything is opened.
CUresult Check(const HandleBytes& handle, Use use) {
  if (!Driver::Get().options().ipc) return CUDA_ERROR_NOT_SUPPORTED;
  if (handle.use != static_cast<uint32_t>(use)) return CUDA_ERROR_INVALID_HANDLE;
  if (Driver::Get().Ordinal(handle.device) < 0) return CUDA_ERROR_INVALID_DEVICE;
  return CUDA_SUCCESS;
}

// Whether this process exported it. A process id says so only within one namespace; the identity says so
// anywhere.
bool IsOwn(const HandleBytes& handle) {
  bool own = false;
  Driver::Get().memory().Change([&](Range& range) {
    own = range.kind == Range::Kind::kAllocated && range.physical->label().identity == handle.identity;
    return own;
  });
  return own;
}

// Counts one more open of what is open already; 0 when it is not.
CUdeviceptr Reopen(const Context& context, const HandleBytes& handle) {
  CUdeviceptr opened = 0;
  Driver::Get().memory().Change([&](Range& range) {
    if (range.kind != Range::Kind::kImported || range.device != context.ordinal() ||
        range.physical->label().identity != handle.identity) {
      return false;
    }
    ++range.opens;
    opened = range.base;
    return true;
  });
  return opened;
}

CUresult OpenMemory(Context& context, const HandleBytes& handle, CUdeviceptr& pointer) {
  if (const CUresult checked = Check(handle, Use::kMemory); checked != CUDA_SUCCESS) return checked;
  if (IsOwn(handle)) return CUDA_ERROR_INVALID_CONTEXT;
  // Two threads that open the same handle must not map it twice.
  static std::mutex& mutex = *new std::mutex;
  std::lock_guard lock(mutex);
  pointer = Reopen(context, handle);
  if (pointer != 0) return CUDA_SUCCESS;
  std::shared_ptr<Physical> physical = Physical::OpenHandle(handle);
  if (!physical) return CUDA_ERROR_INVALID_VALUE;
  const size_t size_bytes = physical->size_bytes();
  pointer = Driver::Get().memory().Place({.size_bytes = size_bytes,
                                          .kind = Range::Kind::kImported,
                                          .device = context.ordinal(),
                                          .physical = std::move(physical)});
  if (pointer == 0) return CUDA_ERROR_MAP_FAILED;
  Driver::Get().counters().Add(kImports, 1);
  return CUDA_SUCCESS;
}

}  // namespace

CUresult CUDAAPI cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr pointer) {
  return InContext("cuIpcGetMemHandle", [&](Context& context) -> CUresult {
    if (!Driver::Get().options().ipc) return CUDA_ERROR_NOT_SUPPORTED;
    const std::optional<Range> range = Driver::Get().memory().Find(pointer);
    if (!handle || !range || range->kind != Range::Kind::kAllocated) return CUDA_ERROR_INVALID_VALUE;
    const HandleBytes bytes = range->physical->Handle();
    std::memcpy(handle, &bytes, sizeof bytes);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuIpcOpenMemHandle(CUdeviceptr* pointer, CUipcMemHandle handle, unsigned int flags) {
  return InContext("cuIpcOpenMemHandle", [&](Context& context) -> CUresult {
    if (!pointer || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) return CUDA_ERROR_INVALID_VALUE;
    HandleBytes bytes;
    std::memcpy(&bytes, &handle, sizeof bytes);
    return OpenMemory(context, bytes, *pointer);
  });
}

CUresult CUDAAPI cuIpcCloseMemHandle(CUdeviceptr pointer) {
  return InContext("cuIpcCloseMemHandle", [&](Context& context) -> CUresult {
    bool open = false;
    bool last = false;
    Driver::Get().memory().Change([&](Range& range) {
      open = range.base == pointer && range.kind == Range::Kind::kImported && range.opens > 0;
      if (open) last = --range.opens == 0;
      return open;
    });
    if (!open) return CUDA_ERROR_INVALID_VALUE;
    if (!last) return CUDA_SUCCESS;
    context.Synchronize();
    if (Driver::Get().memory().Remove(pointer, [](const Range& range) { return range.opens == 0; })) {
      Driver::Get().counters().Add(kImports, -1);
    }
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuIpcGetEventHandle(CUipcEventHandle* handle, CUevent event_handle) {
  return InContext("cuIpcGetEventHandle", [&](Context& context) -> CUresult {
    if (!Driver::Get().options().ipc) return CUDA_ERROR_NOT_SUPPORTED;
    const std::shared_ptr<Event> event = Driver::Get().FindEvent(event_handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (!handle || !event->physical() || event->imported()) return CUDA_ERROR_INVALID_VALUE;
    const HandleBytes bytes = event->physical()->Handle();
    std::memcpy(handle, &bytes, sizeof bytes);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuIpcOpenEventHandle(CUevent* event_handle, CUipcEventHandle handle) {
  return InContext("cuIpcOpenEventHandle", [&](Context& context) -> CUresult {
    HandleBytes bytes;
    std::memcpy(&bytes, &handle, sizeof bytes);
    if (!event_handle) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult checked = Check(bytes, Use::kEvent); checked != CUDA_SUCCESS) return checked;
    if (Driver::Get().HasEvent(bytes.identity)) return CUDA_ERROR_INVALID_CONTEXT;
    std::shared_ptr<Physical> physical = Physical::OpenHandle(bytes);
    if (!physical) return CUDA_ERROR_INVALID_VALUE;
    *event_handle = Driver::Get().AddEvent(context, Event::Import(std::move(physical)));
    return CUDA_SUCCESS;
  });
}
