// Device memory by allocation, and what is known of a pointer's range.

#include "tests/fake_cuda/driver.h"

using namespace keepstep::fake_cuda;

namespace {

CUresult Allocate(Context& context, Use use, CUdeviceptr* pointer, size_t size_bytes) {
  if (!pointer || size_bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  Driver& driver = Driver::Get();
  std::shared_ptr<Physical> physical = driver.Allocate(context, use, size_bytes);
  if (!physical) return CUDA_ERROR_OUT_OF_MEMORY;
  *pointer = driver.memory().Place({.size_bytes = size_bytes,
                                    .kind = use == Use::kPool ? Range::Kind::kPool : Range::Kind::kAllocated,
                                    .device = context.ordinal(),
                                    .physical = std::move(physical)});
  return *pointer == 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

bool IsOwn(const Range& range) {
  return range.kind == Range::Kind::kAllocated || range.kind == Range::Kind::kPool;
}

CUresult Free(CUdeviceptr pointer) {
  const std::optional<Range> range = Driver::Get().memory().Remove(pointer, IsOwn);
  if (!range) return CUDA_ERROR_INVALID_VALUE;
  range->physical->Free();
  return CUDA_SUCCESS;
}

}  // namespace

CUresult CUDAAPI cuMemAlloc(CUdeviceptr* pointer, size_t size_bytes) {
  return InContext("cuMemAlloc",
                   [&](Context& context) { return Allocate(context, Use::kMemory, pointer, size_bytes); });
}

CUresult CUDAAPI cuMemFree(CUdeviceptr pointer) {
  return InContext("cuMemFree", [&](Context& context) -> CUresult {
    if (pointer == 0) return CUDA_SUCCESS;
    context.Synchronize();
    if (const CUresult waited = Waited(context); waited != CUDA_SUCCESS) return waited;
    return Free(pointer);
  });
}

// The address is there at once, the memory behind it too: it is only from this stream that it may be used
// before the stream has come here.
CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr* pointer, size_t size_bytes, CUstream stream) {
  return OnStream("cuMemAllocAsync", stream, [&](Context& context, Stream&) -> CUresult {
    if (!Driver::Get().options().pools) return CUDA_ERROR_NOT_SUPPORTED;
    return Allocate(context, Use::kPool, pointer, size_bytes);
  });
}

CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) {
  return OnStream("cuMemFreeAsync", stream, [&](Context& context, Stream& on) -> CUresult {
    const std::optional<Range> range = Driver::Get().memory().Find(pointer);
    if (!range || range->base != pointer || !IsOwn(*range)) return CUDA_ERROR_INVALID_VALUE;
    context.Enqueue(on, [pointer](Time ready) {
      Free(pointer);
      return ready;
    });
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  return InContext("cuMemGetInfo", [&](Context& context) -> CUresult {
    Driver& driver = Driver::Get();
    const int64_t total = driver.options().memory_bytes;
    if (free_bytes) *free_bytes = total - driver.counters().UsedMemory(context.device_number());
    if (total_bytes) *total_bytes = total;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemGetAddressRange(CUdeviceptr* base, size_t* size_bytes, CUdeviceptr pointer) {
  return InContext("cuMemGetAddressRange", [&](Context& context) -> CUresult {
    const std::optional<Range> range = Driver::Get().memory().Find(pointer);
    if (!range) return CUDA_ERROR_NOT_FOUND;
    if (base) *base = range->base;
    if (size_bytes) *size_bytes = range->size_bytes;
    return CUDA_SUCCESS;
  });
}
