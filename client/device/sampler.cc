#include "client/device/sampler.h"

#include <algorithm>
#include <cstring>

namespace keepstep::client {

Sampler::~Sampler() {
  std::lock_guard lock(mu_);
  MakeRoom(0);
  for (const auto& [context, stream] : streams_) {
    const InContext in(cu_, context);
    if (in.result() == CUDA_SUCCESS) (void)cu_.cuStreamDestroy(stream);
  }
}

// Memory that is not pinned is copied to all the same, one piece after the other.
void Sampler::MakeRoom(size_t size_bytes) {
  if (pinned_in_ != nullptr) {
    const InContext in(cu_, pinned_in_);
    if (in.result() == CUDA_SUCCESS) (void)cu_.cuMemHostUnregister(landing_.data());
    pinned_in_ = nullptr;
  }
  landing_ = std::vector<std::byte>(size_bytes);
}

CUresult Sampler::Begin(CUcontext context, CUstream* stream) {
  const auto known = streams_.find(context);
  if (known != streams_.end()) {
    *stream = known->second;
  } else {
    const CUresult made = cu_.cuStreamCreateWithPriority(stream, CU_STREAM_NON_BLOCKING, 0);
    if (made != CUDA_SUCCESS) return made;
    streams_[context] = *stream;
  }
  if (pinned_in_ == nullptr &&
      cu_.cuMemHostRegister(landing_.data(), landing_.size(), CU_MEMHOSTREGISTER_PORTABLE) == CUDA_SUCCESS) {
    pinned_in_ = context;
  }
  return fences_ == nullptr ? CUDA_SUCCESS : fences_->Follow(context, *stream);
}

CUresult Sampler::Read(absl::Span<const DeviceSample> samples, absl::Span<const Allocation> allocations,
                       std::byte* into) {
  std::lock_guard lock(mu_);
  if (broken_ != CUDA_SUCCESS) return broken_;
  const size_t size_bytes = samples.size() * kDeviceSampleBytes;
  if (landing_.size() < size_bytes) MakeRoom(size_bytes);
  std::map<CUcontext, CUstream> used;
  CUresult result = CUDA_SUCCESS;
  for (size_t i = 0; i < samples.size() && result == CUDA_SUCCESS; ++i) {
    const Allocation* const allocation = AllocationAt(allocations, samples[i].address);
    if (allocation == nullptr) {
      result = CUDA_ERROR_INVALID_VALUE;
      break;
    }
    auto* const context = reinterpret_cast<CUcontext>(allocation->context);
    const InContext in(cu_, context);
    result = in.result();
    auto stream = used.find(context);
    if (result == CUDA_SUCCESS && stream == used.end()) {
      stream = used.emplace(context, nullptr).first;
      result = Begin(context, &stream->second);
      if (result != CUDA_SUCCESS) used.erase(stream);
    }
    if (result != CUDA_SUCCESS) break;
    result = cu_.cuMemcpyDtoHAsync(landing_.data() + i * kDeviceSampleBytes, samples[i].address,
                                   samples[i].size_bytes, stream->second);
  }
  for (const auto& [context, stream] : used) {
    bool drained = false;
    const CUresult waited = Drain(cu_, context, stream, &drained);
    if (!drained) broken_ = waited;
    if (result == CUDA_SUCCESS) result = waited;
  }
  std::memcpy(into, landing_.data(), result == CUDA_SUCCESS ? size_bytes : 0);
  return result;
}

}  // namespace keepstep::client
