// Events that mark, in stream order, where a save's copy may begin.
//
// For each (context, stream) as many events as saves may be in flight, kept and recorded again. A save has its own:
// a stream may stand at the gate of an earlier save (gate_words.h), and what is marked behind that must not hold
// up the earlier save's copy, which opens it. Those that cross processes do so by a handle; where the driver lets
// no event cross, the stream is waited for, and a plain event orders the copies that this process makes itself.

#ifndef KEEPSTEP_CLIENT_DEVICE_FENCES_H_
#define KEEPSTEP_CLIENT_DEVICE_FENCES_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
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
  using Place = std::tuple<CUcontext, CUstream, uint64_t>;  // the last: which of the saves in flight

  static Uses UsesOf(absl::Span<const Allocation> allocations);
  absl::StatusOr<Marks> MarksOf(const Uses& uses, absl::Span<void* const> streams) const;
  absl::StatusOr<const Event*> Record(CUcontext context, CUstream stream, uint64_t number);
  absl::StatusOr<Event> Make() const;

  const cuda::Driver& cu_;
  Contexts* contexts_;
  std::mutex mu_;
  std::map<Place, Event> events_;  // guarded by mu_; at most kMaxEvents
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_FENCES_H_
