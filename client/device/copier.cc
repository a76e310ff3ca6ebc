#include "client/device/copier.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>

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
  if (result != CUDA_SUCCESS)
    streams_.erase(context);
  else
    *stream = held;
  return result;
}

// Unpinned memory is copied all the same, slower.
void Copier::Pin(CUcontext context, std::byte* window, size_t window_bytes) {
  if (window_ == window) return;
  ForgetWindow();
  window_ = window;
  if (cu_.cuMemHostRegister(window, window_bytes, CU_MEMHOSTREGISTER_PORTABLE) == CUDA_SUCCESS)
    pinned_in_ = context;
}

void Copier::ForgetWindow() {
  if (pinned_in_ != nullptr) {
    const InContext in(cu_, pinned_in_);
    if (in.result() == CUDA_SUCCESS) (void)cu_.cuMemHostUnregister(window_);
  }
  window_ = nullptr;
  pinned_in_ = nullptr;
}

// One copy, inside one allocation.
CUresult Copier::Queue(const proto::CopyEntry& entry, const Allocation& allocation, bool into_client,
                       std::byte* window, size_t window_bytes, std::set<CUcontext>* used) {
  auto* const context = reinterpret_cast<CUcontext>(allocation.context);
  const InContext in(cu_, context);
  if (in.result() != CUDA_SUCCESS) return in.result();
  CUstream stream = nullptr;
  if (const CUresult result = StreamOf(context, &stream); result != CUDA_SUCCESS) return result;
  if (used->insert(context).second) {
    Pin(context, window, window_bytes);
    const CUresult result = into_client ? CUDA_SUCCESS : fences_->Follow(context, stream);
    if (result != CUDA_SUCCESS) return result;
  }
  std::byte* const shared = window + entry.window_offset_bytes;
  return into_client ? cu_.cuMemcpyHtoDAsync(entry.address, shared, entry.size_bytes, stream)
                     : cu_.cuMemcpyDtoHAsync(shared, entry.address, entry.size_bytes, stream);
}

int Copier::Copy(absl::Span<const proto::CopyEntry> entries, absl::Span<const Allocation> allocations,
                 bool into_client, std::byte* window, size_t window_bytes) {
  if (broken_) return EIO;
  std::set<CUcontext> used;
  CUresult result = CUDA_SUCCESS;
  bool outside = false;
  for (proto::CopyEntry left : entries) {
    while (left.size_bytes > 0 && result == CUDA_SUCCESS && !outside) {
      const Allocation* const allocation = AllocationAt(allocations, left.address);
      outside = allocation == nullptr;
      if (outside) break;
      proto::CopyEntry part = left;
      part.size_bytes =
          std::min(left.size_bytes, allocation->address + allocation->size_bytes - left.address);
      result = Queue(part, *allocation, into_client, window, window_bytes, &used);
      left.address += part.size_bytes;
      left.window_offset_bytes += part.size_bytes;
      left.size_bytes -= part.size_bytes;
    }
  }
  // Also after a failure: the window and the tensors are others' again once this returns.
  for (CUcontext context : used) {
    bool drained = false;
    const CUresult waited = Drain(cu_, context, streams_.at(context), &drained);
    broken_ |= !drained;
    if (result == CUDA_SUCCESS) result = waited;
  }
  if (result != CUDA_SUCCESS) {
    std::fprintf(stderr, "keepstep: copying GPU memory %s the window: %s\n", into_client ? "out of" : "into",
                 cu_.Describe(result).c_str());
    return EIO;
  }
  return outside ? EFAULT : 0;
}

}  // namespace keepstep::client
