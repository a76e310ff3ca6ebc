// Pull: the daemon reads and writes a trainer's memory with process_vm_readv and process_vm_writev. Nothing
// runs in the trainer.
//
// A pid is no identity: it may be another process by now, or the same one after exec. So
//   1. every vectored read begins with the session's 16-byte nonce, read in the same call as the data;
//   2. it counts only if the nonce is the session's and the pidfd, held since the handshake, has not fired
//      afterwards;
//   3. a write is preceded and followed by such a check; in between, only the trainer's own exec could let
//      it hit another image, and it blocks in Load.

#ifndef KEEPSTEP_DAEMON_PULL_PORT_H_
#define KEEPSTEP_DAEMON_PULL_PORT_H_

#include <sys/types.h>

#include <array>
#include <cstdint>

#include "absl/status/statusor.h"
#include "daemon/memory_port.h"
#include "proto/handoff.h"

namespace keepstep::daemon {

using SessionNonce = std::array<uint8_t, proto::kNonceBytes>;

class PullPort : public MemoryPort {
 public:
  // `pidfd` is borrowed and must stay open while the port lives.
  PullPort(pid_t pid, int pidfd, uint64_t nonce_address, const SessionNonce& nonce);

  absl::Status Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) override;
  absl::Status Write(absl::Span<const MemoryRun> runs, Cancellation& cancel) override;
  bool waits_for_trainer() const override { return false; }

  // Reads the nonce alone: OK says that pull works and that the process is the one that said Hello.
  absl::Status Check() const;

 private:
  // One vectored call from byte `skip` of the first run on: how many bytes it moved, at least one if there
  // are any.
  absl::StatusOr<int64_t> ReadOnce(absl::Span<const MemoryRun> runs, int64_t skip) const;
  absl::StatusOr<int64_t> WriteOnce(absl::Span<const MemoryRun> runs, int64_t skip) const;
  absl::Status StillAlive() const;

  const pid_t pid_;
  const int pidfd_;
  const uint64_t nonce_address_;
  const SessionNonce nonce_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_PULL_PORT_H_
