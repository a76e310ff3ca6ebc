// Which path each registered piece of GPU memory takes on one connection, and what the daemon has to be
// handed for it.

#ifndef KEEPSTEP_CLIENT_DEVICE_PATHS_H_
#define KEEPSTEP_CLIENT_DEVICE_PATHS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/device/devices.h"
#include "client/handoff_client.h"
#include "client/registration.h"

namespace keepstep::client {

// A buffer goes by the window if the daemon maps no GPU memory, or if any of it has neither handle nor
// descriptor.
struct DevicePaths {
  std::vector<bool> by_window;            // by buffer; empty: there is no GPU memory
  std::vector<const Allocation*> mapped;  // what the other buffers lie in, by address
  size_t window_allocations = 0;          // what none but buffers by window lie in

  bool NeedWindow() const;
  // Of `samples`, those in buffers that go by the window, limited as LimitPlan says; null: there are none.
  std::shared_ptr<const DeviceSamplePlan> SamplesByWindow(const DeviceSamplePlan& samples) const;
  // "3 allocations by ipc, 2 by vmm"; "": there are none.
  std::string Text() const;
};

// Points into `declared`.
DevicePaths ChoosePaths(const Declared& declared, bool daemon_maps);

// Which descriptors the daemon has been given on the present connection, by number.
//
// A number stands for one piece of memory and is never used again. A piece that stays registered keeps its
// number; what a registration leaves out is forgotten, as the daemon closes it. One thread at a time.
class DescriptorBook {
 public:
  // Hands over what `handoff` has not been given, and describes all of `paths.mapped`. UNAVAILABLE: the
  // connection has ended. Other errors are those of Devices::Export.
  absl::StatusOr<std::vector<v1::DeviceMemory>> Offer(const DevicePaths& paths,
                                                      const std::shared_ptr<HandoffClient>& handoff,
                                                      Devices* devices, Deadline deadline);
  // What became of the registration that the last Offer was for.
  void Taken() { given_ = std::move(offered_); }
  void Refused() { offered_.clear(); }

 private:
  using Numbers = std::map<Allocation::Identity, uint64_t>;

  absl::Status Send(const std::vector<const Allocation*>& pieces, HandoffClient* handoff, Devices* devices,
                    Deadline deadline);

  std::shared_ptr<HandoffClient> to_;
  Numbers given_;    // of the generation that stands
  Numbers offered_;  // of the one on its way
  uint64_t next_ = 1;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_PATHS_H_
