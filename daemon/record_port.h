// The host memory of a dead trainer, as its flight record holds it, behind the interface of a living one's.

#ifndef KEEPSTEP_DAEMON_RECORD_PORT_H_
#define KEEPSTEP_DAEMON_RECORD_PORT_H_

#include <cstdint>
#include <map>
#include <memory>

#include "daemon/memory_port.h"
#include "proto/flight_reader.h"

namespace keepstep::daemon {

// Thread-safe. OUT_OF_RANGE: an address that the note does not hold. Nothing is ever written.
class RecordPort : public MemoryPort {
 public:
  explicit RecordPort(std::shared_ptr<const proto::FlightNote> note);

  absl::Status Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) override;
  absl::Status Write(absl::Span<const MemoryRun> runs, Cancellation& cancel) override;
  bool waits_for_trainer() const override { return false; }

 private:
  struct Segment {
    uint64_t end = 0;  // address
    const char* bytes = nullptr;
  };

  const std::shared_ptr<const proto::FlightNote> note_;
  std::map<uint64_t, Segment> segments_;  // by address, apart from each other
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_RECORD_PORT_H_
