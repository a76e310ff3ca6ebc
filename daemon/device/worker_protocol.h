// What a daemon and its device worker say to each other: the structs below, one a packet of a SOCK_SEQPACKET pair.
//
//   1. daemon → Start with the pool's memfd; worker → Reply once it has a context on that GPU, with the NUMA node that
//      the GPU is near.
//   2. daemon → Map (with a descriptor for VMM memory), Unmap, Allocate, Await, Copy, in any number at once; worker → one
//      Reply to each, by its id, in any order. A Copy's Reply says that its bytes have arrived; an Allocate's carries the
//      descriptor. An Await's comes when a trainer's GPU is that far: a daemon that waits for it asks by Ping whether the
//      worker still answers.
//   3. daemon → Pin, of which nobody hears: done when the worker has nothing else to do.
//   4. A Reply with `fatal` is the last: the worker ends. The daemon ends it by closing its end.
//
// Both are of one build, so there is no version. Memory is named by number and offset: a mapping's number is the
// daemon's to choose; host memory is the pool's memfd alone. The worker checks every offset all the same.

#ifndef KEEPSTEP_DAEMON_DEVICE_WORKER_PROTOCOL_H_
#define KEEPSTEP_DAEMON_DEVICE_WORKER_PROTOCOL_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace keepstep::daemon {

using GpuUuid = std::array<uint8_t, 16>;
using IpcHandle = std::array<uint8_t, 64>;  // of memory or of an event, as the driver gives it

inline constexpr char kWorkerFlag[] = "--device-worker";
inline constexpr int kWorkerSocketFd = 3;  // in the worker

enum class WorkerVerb : uint32_t { kStart = 1, kMap, kUnmap, kAwait, kCopy, kPin, kPing, kForget, kAllocate };

struct WorkerHeader {
  WorkerVerb verb{};
  uint32_t reserved = 0;
  uint64_t id = 0;  // of the request; its Reply has the same
};

// With the pool's descriptor.
struct WorkerStart {
  WorkerHeader header{.verb = WorkerVerb::kStart};
  GpuUuid gpu{};
  uint64_t memory_bytes = 0;  // of the memfd
  uint64_t pin_bytes = 0;     // it is pinned in pieces of this size, when they are first used
};

enum class HandleKind : uint32_t { kIpc = 1, kDescriptor = 2 };

// kDescriptor: with the descriptor.
struct WorkerMap {
  WorkerHeader header{.verb = WorkerVerb::kMap};
  uint64_t mapping = 0;
  uint64_t size_bytes = 0;  // of the allocation
  HandleKind kind{};
  uint32_t writable = 0;
  IpcHandle ipc{};
};

struct WorkerUnmap {
  WorkerHeader header{.verb = WorkerVerb::kUnmap};
  uint64_t mapping = 0;
};

// Answered with the descriptor of new VMM memory of the GPU, all zeroes. The worker keeps nothing of it.
struct WorkerAllocate {
  WorkerHeader header{.verb = WorkerVerb::kAllocate};
  uint64_t size_bytes = 0;  // a multiple of the driver's granularity
};

// Answered when everything that was queued before the event's newest record is done.
struct WorkerAwait {
  WorkerHeader header{.verb = WorkerVerb::kAwait};
  IpcHandle event{};
};

struct WorkerCopyRun {
  uint64_t mapping = 0;
  uint64_t device_offset_bytes = 0;
  uint64_t host_offset_bytes = 0;
  uint64_t size_bytes = 0;
};

// Followed by `count` WorkerCopyRun.
struct WorkerCopy {
  WorkerHeader header{.verb = WorkerVerb::kCopy};
  uint32_t into_device = 0;
  uint32_t count = 0;
};

// Memory of the pool that will be copied from or to before long.
struct WorkerPin {
  WorkerHeader header{.verb = WorkerVerb::kPin};
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
};

// Answered at once.
struct WorkerPing {
  WorkerHeader header{.verb = WorkerVerb::kPing};
};

// Nobody waits for that event any more, which may never come: its trainer is gone.
struct WorkerForget {
  WorkerHeader header{.verb = WorkerVerb::kForget};
  uint64_t await = 0;  // the id of the Await
};

struct WorkerReply {
  uint64_t id = 0;
  int32_t error = 0;   // 0, or a CUresult; -1: what the daemon asked for cannot be
  uint32_t fatal = 0;  // 1: CUDA is of no more use in this process
  int32_t node = -1;   // to Start: kAnyNode of daemon/host_nodes.h, or a node whose memory is worth to be chosen
  char text[236] = {};  // what is wrong; to Start without an error: why the worker does not stay on that node
};

inline constexpr size_t kMaxCopyRuns = 1024;
inline constexpr size_t kMaxWorkerFrameBytes = sizeof(WorkerCopy) + kMaxCopyRuns * sizeof(WorkerCopyRun);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_WORKER_PROTOCOL_H_
