// Memory of this process behind the interface of a trainer's: attempts written over gRPC, boxes read over
// gRPC, tests.

#ifndef KEEPSTEP_DAEMON_LOCAL_PORT_H_
#define KEEPSTEP_DAEMON_LOCAL_PORT_H_

#include "daemon/memory_port.h"

namespace keepstep::daemon {

class LocalPort : public MemoryPort {
 public:
  absl::Status Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) override;
  absl::Status Write(absl::Span<const MemoryRun> runs, Cancellation& cancel) override;
  bool waits_for_trainer() const override { return false; }
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOCAL_PORT_H_
