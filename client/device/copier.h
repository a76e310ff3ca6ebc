// The `window` path: copies between GPU memory and the shared window, which it pins, on a stream of its own
// for each context.

#ifndef KEEPSTEP_CLIENT_DEVICE_COPIER_H_
#define KEEPSTEP_CLIENT_DEVICE_COPIER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>

#include "absl/types/span.h"
#include "client/device/allocation.h"
#include "client/device/fences.h"
#include "proto/handoff.h"

namespace keepstep::client {

// One thread at a time.
class Copier {
 public:
  Copier(const cuda::Driver& cu, Fences* fences) : cu_(cu), fences_(fences) {}
  ~Copier();  // the window is forgotten by then

  // As Devices::Copy says.
  int Copy(absl::Span<const proto::CopyEntry> entries, absl::Span<const Allocation> allocations,
           bool into_client, std::byte* window, size_t window_bytes);
  void ForgetWindow();

 private:
  CUresult StreamOf(CUcontext context, CUstream* stream);  // in the context, which is current
  CUresult Queue(const proto::CopyEntry& entry, const Allocation& allocation, bool into_client,
                 std::byte* window, size_t window_bytes, std::set<CUcontext>* used);
  void Pin(CUcontext context, std::byte* window, size_t window_bytes);

  const cuda::Driver& cu_;
  Fences* fences_;
  std::map<CUcontext, CUstream> streams_;
  std::byte* window_ = nullptr;  // that a try was made to pin
  CUcontext pinned_in_ = nullptr;
  bool broken_ = false;  // bytes may still land in the window: it takes no others
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_COPIER_H_
