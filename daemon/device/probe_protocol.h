// What a daemon and the child of its probe say to each other (exporter_probe.h): one packet each way.

#ifndef KEEPSTEP_DAEMON_DEVICE_PROBE_PROTOCOL_H_
#define KEEPSTEP_DAEMON_DEVICE_PROBE_PROTOCOL_H_

#include <cstddef>
#include <cstdint>

#include "daemon/device/worker_protocol.h"

namespace keepstep::daemon {

inline constexpr char kProbeFlag[] = "--device-probe";  // the socket is kWorkerSocketFd
inline constexpr size_t kProbeBytes = size_t{1} << 20;

struct ProbeAsk {
  GpuUuid gpu{};
  HandleKind kind{};
  uint32_t reserved = 0;
  uint64_t seed = 0;
};

// kDescriptor: with the descriptor.
struct ProbeOffer {
  int32_t error = 0;  // 0, or a CUresult; -1: what was asked for cannot be
  uint32_t reserved = 0;
  uint64_t size_bytes = 0;  // of the allocation; the first kProbeBytes hold the pattern
  IpcHandle ipc{};
  char text[240] = {};
};

// Word `index` of the pattern: splitmix64.
constexpr uint64_t ProbeWord(uint64_t seed, size_t index) {
  uint64_t mixed = seed + (index + 1) * 0x9e3779b97f4a7c15;
  mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
  return mixed ^ mixed >> 31;
}

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_PROBE_PROTOCOL_H_
