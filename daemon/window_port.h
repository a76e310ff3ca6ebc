// Window: works where pull does not. The client's copy threads move bytes between its buffers and a shared
// memfd, the daemon between the memfd and staging.
//
//   1. A call takes a slot of the window, sends Copy frames with entries into that slot, and waits for
//      CopyDone.
//   2. Bytes are copied out of the slot before anything looks at them: the client can write to it at any
//      time.
//   3. A call that gives up leaves its slot taken until CopyDone comes: a late copy must not land in
//      someone's bytes.
//   4. When the session ends every waiter fails at once.

#ifndef KEEPSTEP_DAEMON_WINDOW_PORT_H_
#define KEEPSTEP_DAEMON_WINDOW_PORT_H_

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/memory_port.h"
#include "proto/handoff.h"

namespace keepstep::daemon {

inline constexpr int64_t kDefaultWindowBytes = int64_t{64} << 20;
inline constexpr int kWindowSlots = 4;

// Sends frames to one client, in order. Thread-safe.
class CopyFrameSink {
 public:
  virtual ~CopyFrameSink() = default;

  // One Copy frame with at most proto::kMaxCopyEntries entries. May block for as long as the socket is
  // full. An error says that the client is gone.
  virtual absl::Status SendCopy(uint64_t id, bool into_client,
                                absl::Span<const proto::CopyEntry> entries) = 0;
};

class WindowPort : public MemoryPort {
 public:
  // `window` (a mapping that the client cannot shrink) and `sink` outlive the port.
  WindowPort(absl::Span<std::byte> window, CopyFrameSink* sink);

  absl::Status Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) override;
  absl::Status Write(absl::Span<const MemoryRun> runs, Cancellation& cancel) override;
  bool waits_for_trainer() const override { return true; }

  // From the handoff thread; never blocks. `error` is 0 or an errno. False for an id that is not in flight.
  bool OnCopyDone(uint64_t id, int32_t error);

  // The session is over: every waiter, now and later, gets `why`. Never blocks.
  void OnSessionEnded(absl::Status why);

 private:
  struct Request {
    int slot = 0;
    bool done = false;
    bool abandoned = false;
    int32_t error = 0;
  };
  struct Batch {  // runs, or parts of runs, that one frame moves
    std::vector<MemoryRun> runs;
    int64_t size_bytes = 0;
  };

  Batch NextBatch(absl::Span<const MemoryRun> runs, size_t* index, int64_t* offset_bytes) const;
  absl::Status Move(absl::Span<const MemoryRun> runs, bool into_client, Cancellation& cancel);
  absl::Status MoveBatch(const Batch& batch, int slot, bool into_client, Cancellation& cancel,
                         bool* slot_free);
  absl::StatusOr<int> TakeSlot(Cancellation& cancel);
  void FreeSlot(int slot);
  absl::Status AwaitDone(uint64_t id, Cancellation& cancel, bool* slot_free);

  const absl::Span<std::byte> window_;
  const int64_t slot_bytes_;
  CopyFrameSink* const sink_;

  std::mutex mutex_;
  std::condition_variable changed_;
  absl::Status ended_;
  uint64_t next_id_ = 1;
  bool slot_taken_[kWindowSlots] = {};
  std::map<uint64_t, Request> requests_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_WINDOW_PORT_H_
