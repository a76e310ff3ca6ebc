// Keeps the flight record of this process (proto/flight_record.h): what the daemon needs to save its memory when it has
// died.
//
//   1. Begin, then the update's kernels, then Done: words written in stream order, for groups with GPU memory.
//   2. Note, once a step, when its update is queued: the older slot is overwritten with the step, how many updates each
//      group has queued, the save request, and the bytes of host memory. No call waits for the GPU or the daemon.
//   3. What cannot be proved whole is not recorded: the record is refused with a reason, which the daemon reads too, and
//      training goes on. What the program does wrong refuses it for good; what is registered, until the next registration.

#ifndef KEEPSTEP_CLIENT_FLIGHT_RECORDER_H_
#define KEEPSTEP_CLIENT_FLIGHT_RECORDER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/device/devices.h"
#include "client/handoff_client.h"
#include "client/registration.h"
#include "client/unique_fd.h"
#include "proto/flight_record.h"

namespace keepstep::client {

// Thread-safe.
class FlightRecorder {
 public:
  struct Info {
    bool on = false;       // what is noted counts
    int64_t step = -1;     // noted last; -1: none of this registration
    std::string why_not;   // empty: it is on, or nothing is registered yet
  };

  // `devices` outlives it. RESOURCE_EXHAUSTED (NO_MEMORY).
  static absl::StatusOr<std::unique_ptr<FlightRecorder>> Make(Devices* devices);
  ~FlightRecorder();

  int fd() const { return fd_.get(); }  // of the record, sealed

  // What stands from now on, as the daemon has taken it. `refusal`: why it saves none of it; empty: it does.
  void Registered(const Declared& declared, uint64_t generation, bool by_window, absl::string_view refusal);

  // The update that is queued on `stream` from now on, until Done. A group without GPU memory needs neither.
  void Begin(uint32_t group, void* stream);
  // INVALID_ARGUMENT (BAD_GROUP). FAILED_PRECONDITION (NO_UPDATE): there was no Begin.
  absl::Status Done(uint32_t group, void* stream);
  // An update that is announced without a stream cannot be ordered: refuses the record where the group has GPU memory.
  void Unordered(uint32_t group);

  // `request` is what a save of request.step() would send; generation, number and fences are filled in or left out here.
  // Host memory is read. FAILED_PRECONDITION (NOTHING_REGISTERED).
  absl::Status Note(v1::SaveRequest request);

  // The registered memory is about to be filled by a load: what was noted of it holds no more.
  void Forget();

  Info info() const;

 private:
  struct Update {
    int device = 0;
    uint32_t begun = 0, done = 0;  // that were queued
  };

  FlightRecorder(UniqueFd fd, Mapping memory, Devices* devices);
  proto::FlightHead& head() const { return *reinterpret_cast<proto::FlightHead*>(memory_.data()); }
  proto::FlightWords& words() const {
    return *reinterpret_cast<proto::FlightWords*>(memory_.data() + proto::kFlightWordsOffset);
  }
  void Refuse(const std::string& why);       // until the next registration
  void RefuseForGood(const std::string& why);
  bool NothingAnnounced(int64_t step) const;
  bool WriteSlot(const v1::SaveRequest& request);  // false: it does not fit
  bool AllWritten() const;

  const UniqueFd fd_;
  Mapping memory_;
  Devices* const devices_;

  mutable std::mutex mu_;
  bool registered_ = false;                 // guarded by mu_, as is everything below
  uint64_t generation_ = 0;
  std::vector<MemoryRange> host_;           // registered host memory
  uint64_t host_bytes_ = 0;
  std::map<uint32_t, int> gpus_;            // of the groups with GPU memory
  std::map<uint32_t, Update> updates_;      // by group, since the start: registrations do not set them back
  std::map<uint32_t, uint32_t> noted_;      // updates_' begun at the last note
  std::string refusal_, refused_for_good_;  // empty: none
  uint64_t sequence_ = 0;
  int64_t step_ = -1;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_FLIGHT_RECORDER_H_
