// Events that mark, in stream order, where a save's copy may begin.
//
// One event for each (context, stream), kept and recorded again for every save. Recording again before the
// daemon has waited makes it wait for more, never for less. Those that cross processes do so by a handle;
// where the driver lets no event cross, the stream is waited for, and a plain event orders the copies that
// this process makes itself.

#ifndef KEEPSTEP_CLIENT_DEVICE_FENCES_H_
#define KEEPSTEP_CLIENT_DEVICE_FENCES_H_

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "client/device/allocation.h"
#include "client/device/contexts.h"
#include "proto/sessions.pb.h"

namespace keepstep::client {

// Thread-safe.
class Fences {
 public:
  Fences(const cuda::Driver& cu, Contexts* contexts) : cu_(cu), contexts_(contexts) {}
  ~Fences();

  // As Devices::Mark says.
  absl::Status Mark(absl::Span<const Allocation> allocations, absl::Span<void* const> streams,
                    bool daemon_maps, v1::SaveRequest* request);

  // Lets `stream`, of `context`, wait for every point that was marked on that context's GPU.
  CUresult Follow(CUcontext context, CUstream stream);

 private:
  struct Event {
    CUevent event = nullptr;
    std::string handle;  // empty: it does not cross
  };
  struct Use {
    std::string gpu;
    bool mapped = false;  // holds memory that the daemon may map
  };
  using Uses = std::map<CUcontext, Use>;
  using Marks = std::set<std::pair<CUcontext, CUstream>>;

  static Uses UsesOf(absl::Span<const Allocation> allocations);
  absl::StatusOr<Marks> MarksOf(const Uses& uses, absl::Span<void* const> streams) const;
  absl::StatusOr<const Event*> Record(CUcontext context, CUstream stream);
  absl::StatusOr<Event> Make() const;

  const cuda::Driver& cu_;
  Contexts* contexts_;
  std::mutex mu_;
  std::map<std::pair<CUcontext, CUstream>, Event> events_;  // guarded by mu_; at most kMaxEvents
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_FENCES_H_
