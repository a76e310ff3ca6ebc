// A MemoryPort reaches one trainer's host memory: by pull (pull_port.h), by window (window_port.h), or, for
// memory that lies in the daemon itself, directly (local_port.h). Addresses were checked against the
// registration by the caller.
//
// Thread-safe. Errors: ABORTED (the trainer died, or is no longer the process that registered),
// OUT_OF_RANGE (an address that is not mapped any more, named), PERMISSION_DENIED, the status of a
// Cancellation.

#ifndef KEEPSTEP_DAEMON_MEMORY_PORT_H_
#define KEEPSTEP_DAEMON_MEMORY_PORT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "daemon/cancellation.h"
#include "daemon/host_nodes.h"

namespace keepstep::daemon {

// Bytes [address, address + size_bytes) there and [local, local + size_bytes) here.
struct MemoryRun {
  uint64_t address = 0;
  std::byte* local = nullptr;
  int64_t size_bytes = 0;
};

class MemoryPort {
 public:
  virtual ~MemoryPort() = default;

  // Copies every run from there to here. What it gives was read from the registered process: a read that
  // cannot say so fails. After an error `local` is undefined.
  virtual absl::Status Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) = 0;

  // Copies every run from here to there; `local` is only read. Only while the trainer blocks in Load.
  virtual absl::Status Write(absl::Span<const MemoryRun> runs, Cancellation& cancel) = 0;

  // Whether a stopped trainer can hold a call up: such calls run on threads of their own, never on shared
  // workers.
  virtual bool waits_for_trainer() const = 0;

  // The NUMA node whose memory it reaches fastest: where `local` had best lie.
  virtual int node() const { return kAnyNode; }
};

// Appends a run, joining it to the last one where both sides continue it.
void AppendRun(std::vector<MemoryRun>& runs, MemoryRun run);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_MEMORY_PORT_H_
