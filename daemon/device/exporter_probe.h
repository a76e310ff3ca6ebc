// Whether what a worker has mapped outlives the process that exported it: the driver alone can say.
//
//   1. A child (kProbeFlag) allocates on the GPU, writes a pattern that is told to nobody else, exports.
//   2. A worker of its own maps it: what a driver does to a process at step 4 must not end the saves of others.
//   3. The child is killed, and is gone.
//   4. The worker reads. Exactly the pattern: it does.

#ifndef KEEPSTEP_DAEMON_DEVICE_EXPORTER_PROBE_H_
#define KEEPSTEP_DAEMON_DEVICE_EXPORTER_PROBE_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "daemon/device/device_worker.h"
#include "daemon/device/probe_protocol.h"

namespace keepstep::daemon {

// `spec` is of the worker; `into`, of kProbeBytes, lies in its memory at `into_offset_bytes`. Blocks for two CUDA contexts.
// FAILED_PRECONDITION: it does not, or cannot be shared so. Others: it could not be tried; ask again.
absl::Status ProbeExporter(const DeviceWorkerSpec& spec, const GpuUuid& gpu, HandleKind kind,
                           absl::Span<std::byte> into, int64_t into_offset_bytes);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_EXPORTER_PROBE_H_
