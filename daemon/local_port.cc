#include "daemon/local_port.h"

#include <cstring>

namespace keepstep::daemon {

absl::Status LocalPort::Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) {
  if (cancel.cancelled()) return cancel.status();
  for (const MemoryRun& run : runs)
    std::memcpy(run.local, reinterpret_cast<const void*>(run.address), run.size_bytes);
  return absl::OkStatus();
}

absl::Status LocalPort::Write(absl::Span<const MemoryRun> runs, Cancellation& cancel) {
  if (cancel.cancelled()) return cancel.status();
  for (const MemoryRun& run : runs)
    std::memcpy(reinterpret_cast<void*>(run.address), run.local, run.size_bytes);
  return absl::OkStatus();
}

}  // namespace keepstep::daemon
