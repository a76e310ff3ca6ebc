// Reads small pieces of GPU memory, many at once: what samples of tensors are made of.

#ifndef KEEPSTEP_CLIENT_DEVICE_SAMPLER_H_
#define KEEPSTEP_CLIENT_DEVICE_SAMPLER_H_

#include <cstddef>
#include <map>
#include <mutex>
#include <vector>

#include "absl/types/span.h"
#include "client/device/allocation.h"
#include "client/device/fences.h"

namespace keepstep::client {

// Thread-safe; one call at a time, each as long as its copies take.
class Sampler {
 public:
  // `fences`: what is read is read after what they have marked; null: at once. It outlives the sampler.
  Sampler(const cuda::Driver& cu, Fences* fences) : cu_(cu), fences_(fences) {}
  ~Sampler();

  // As Devices::ReadSamples says.
  CUresult Read(absl::Span<const DeviceSample> samples, absl::Span<const Allocation> allocations, std::byte* into);

 private:
  CUresult Begin(CUcontext context, CUstream* stream);  // in the context, which is current
  void MakeRoom(size_t size_bytes);

  const cuda::Driver& cu_;
  Fences* fences_;
  std::mutex mu_;
  std::map<CUcontext, CUstream> streams_;  // guarded by mu_
  std::vector<std::byte> landing_;         // guarded by mu_; pinned where the driver does so: copies are queued then
  CUcontext pinned_in_ = nullptr;          // guarded by mu_
  CUresult broken_ = CUDA_SUCCESS;         // guarded by mu_; not success: bytes may still land there, and nothing is read
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_SAMPLER_H_
