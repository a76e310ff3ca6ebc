// Events.

#include "tests/fake_cuda/driver.h"

using namespace keepstep::fake_cuda;

namespace {

// With the event that `handle` names; CUDA_ERROR_INVALID_HANDLE when there is none.
template <typename Function>
CUresult WithEvent(const char* call, CUevent handle, Function&& function) {
  return InContext(call, [&](Context& context) -> CUresult {
    const std::shared_ptr<Event> event = Driver::Get().FindEvent(handle);
    return event ? function(context, *event) : CUDA_ERROR_INVALID_HANDLE;
  });
}

}  // namespace

CUresult CUDAAPI cuEventCreate(CUevent* result, unsigned int flags) {
  return InContext("cuEventCreate", [&](Context& context) -> CUresult {
    constexpr unsigned kFlags = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    const bool interprocess = (flags & CU_EVENT_INTERPROCESS) != 0;
    const bool timed = (flags & CU_EVENT_DISABLE_TIMING) == 0;
    if (!result || (flags & ~kFlags) != 0 || (interprocess && timed)) return CUDA_ERROR_INVALID_VALUE;
    if (interprocess && !Driver::Get().options().ipc) return CUDA_ERROR_NOT_SUPPORTED;
    std::shared_ptr<Event> event = Event::Create(context.options().uuid, interprocess, timed);
    if (!event) return CUDA_ERROR_OUT_OF_MEMORY;
    *result = Driver::Get().AddEvent(context, std::move(event));
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuEventDestroy(CUevent handle) {
  return InContext("cuEventDestroy", [&](Context& context) -> CUresult {
    return Driver::Get().RemoveEvent(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  });
}

CUresult CUDAAPI cuEventRecord(CUevent handle, CUstream stream) {
  return WithEvent("cuEventRecord", handle, [&](Context& context, Event& event) -> CUresult {
    const std::shared_ptr<Stream> on = Driver::Get().FindStream(context, stream);
    if (!on) return CUDA_ERROR_INVALID_HANDLE;
    event.Record(context, *on);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuEventQuery(CUevent handle) {
  return WithEvent("cuEventQuery", handle, [&](Context& context, Event& event) -> CUresult {
    if (!event.Completed(event.newest())) return CUDA_ERROR_NOT_READY;
    return Waited(context);
  });
}

CUresult CUDAAPI cuEventSynchronize(CUevent handle) {
  return WithEvent("cuEventSynchronize", handle, [&](Context& context, Event& event) -> CUresult {
    event.Wait(event.newest(), context.sticky());
    return Waited(context);
  });
}

CUresult CUDAAPI cuEventElapsedTime(float* milliseconds, CUevent start_handle, CUevent end_handle) {
  return WithEvent("cuEventElapsedTime", start_handle, [&](Context& context, Event& start) -> CUresult {
    const std::shared_ptr<Event> end = Driver::Get().FindEvent(end_handle);
    if (!end || !start.timed() || !end->timed() || start.newest() == 0 || end->newest() == 0) {
      return CUDA_ERROR_INVALID_HANDLE;
    }
    if (!milliseconds) return CUDA_ERROR_INVALID_VALUE;
    if (!start.Completed(start.newest()) || !end->Completed(end->newest())) return CUDA_ERROR_NOT_READY;
    *milliseconds = static_cast<float>(end->completed_at_ns() - start.completed_at_ns()) / 1e6F;
    return CUDA_SUCCESS;
  });
}
