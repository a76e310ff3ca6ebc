#include "client/device/copier.h"

#include <cerrno>
#include <cstdio>
#include <set>

namespace keepstep::client {
Copier::~Copier() {
  for (const auto& [context, stream] : streams_) {
    const InContext in(cu_, context);
    if (in.result() == CUDA_SUCCESS) (void)cu_.cuStreamDestroy(stream);
  }
}

CUresult Copier::StreamOf(CUcontext context, CUstream* stream) {
  CUstream& held = streams_[context];
  CUresult result = CUDA_SUCCESS;
  if (held == nullptr) result = cu_.cuStreamCreateWithPriority(&held, CU_STREAM_NON_BLOCKING, 0);
  if (result != CUDA_SUCCESS) streams_.erase(context);
  else *stream = held;
  return result;
}

// Unpinned memory is copied all the same, slower.
void Copier::Pin(CUcontext context, std::byte* window, size_t window_bytes) {
  if (window_ == window) return;
  ForgetWindow();
  window_ = window;
  if (cu_.cuMemHostRegister(window, window_bytes, CU_MEMHOSTREGISTER_PORTABLE) == CUDA_SUCCESS) pinned_in_ = context;
}

void Copier::ForgetWindow() {
  if (pinned_in_ != nullptr) {
    const InContext in(cu_, pinned_in_);
    if (in.result() == CUDA_SUCCESS) (void)cu_.cuMemHostUnregister(window_);
  }
  window_ = nullptr;
  pinned_in_ = nullptr;
}

// A run may go on in the next piece of an expandable segment, which is the same memory to a copy.
CUresult Copier::Queue(const proto::CopyEntry& entry, const Allocation& allocation, bool into_client,
                       std::byte* window) {
  CUstream stream = nullptr;
  if (const CUresult result = StreamOf(reinterpret_cast<CUcontext>(allocation.context), &stream);
      result != CUDA_SUCCESS)
    return result;
  std::byte* const shared = window + entry.window_offset_bytes;
  return into_client ? cu_.cuMemcpyHtoDAsync(entry.address, shared, entry.size_bytes, stream)
                     : cu_.cuMemcpyDtoHAsync(shared, entry.address, entry.size_bytes, stream);
}

int Copier::Copy(absl::Span<const proto::CopyEntry> entries, absl::Span<const Allocation> allocations,
                 bool into_client, std::byte* window, size_t window_bytes) {
  std::set<CUcontext> used;
  CUresult result = CUDA_SUCCESS;
  for (const proto::CopyEntry& entry : entries) {
    if (entry.size_bytes == 0) continue;
    const Allocation* const allocation = AllocationAt(allocations, entry.address);
    if (allocation == nullptr) return EFAULT;
    auto* const context = reinterpret_cast<CUcontext>(allocation->context);
    const InContext in(cu_, context);
    result = in.result();
    if (result == CUDA_SUCCESS && used.insert(context).second) {
      Pin(context, window, window_bytes);
      CUstream stream = nullptr;
      result = StreamOf(context, &stream);
      if (result == CUDA_SUCCESS && !into_client) result = fences_->Follow(context, stream);
    }
    if (result == CUDA_SUCCESS) result = Queue(entry, *allocation, into_client, window);
    if (result != CUDA_SUCCESS) break;
  }
  // Also after a failure: the window and the tensors are others' again once this returns.
  for (CUcontext context : used) {
    const InContext in(cu_, context);
    const auto stream = streams_.find(context);
    if (stream == streams_.end()) continue;
    const CUresult waited = cu_.cuStreamSynchronize(stream->second);
    if (result == CUDA_SUCCESS) result = waited;
  }
  if (result == CUDA_SUCCESS) return 0;
  std::fprintf(stderr, "keepstep: copying GPU memory %s the window: %s\n", into_client ? "out of" : "into",
               cu_.Describe(result).c_str());
  return EIO;
}

}  // namespace keepstep::client
