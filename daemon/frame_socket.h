// One connection of the handoff socket: whole frames with descriptors, from several senders.
//
// Receiving belongs to the handoff thread alone; sending is thread-safe.

#ifndef KEEPSTEP_DAEMON_FRAME_SOCKET_H_
#define KEEPSTEP_DAEMON_FRAME_SOCKET_H_

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "daemon/window_port.h"
#include "proto/handoff.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

struct ReceivedFrame {
  std::vector<std::byte> bytes;
  std::vector<storage::UniqueFd> descriptors;
};

class FrameSocket : public CopyFrameSink {
 public:
  explicit FrameSocket(storage::UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }

  // Never blocks. UNAVAILABLE: nothing there; OUT_OF_RANGE: the other side has closed; INVALID_ARGUMENT: too
  // large a frame, or more descriptors than any frame may carry.
  absl::StatusOr<ReceivedFrame> Receive();

  absl::Status Send(absl::Span<const std::byte> frame, absl::Span<const int> descriptors = {});
  absl::Status SendCopy(uint64_t id, bool into_client, absl::Span<const proto::CopyEntry> entries) override;

  // Ends both directions: senders that wait return.
  void Shutdown();

 private:
  storage::UniqueFd fd_;
  std::mutex send_mutex_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_FRAME_SOCKET_H_
