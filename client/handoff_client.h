// The client's end of the handoff socket (proto/handoff.h): one object is one session's connection.

#ifndef KEEPSTEP_CLIENT_HANDOFF_CLIENT_H_
#define KEEPSTEP_CLIENT_HANDOFF_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/deadline.h"
#include "client/session_pages.h"
#include "client/unique_fd.h"
#include "proto/handoff.h"

namespace keepstep::client {

struct HandoffSpec {
  std::string socket_path;
  std::string directory;           // as the caller named it
  int directory_fd = -1;           // borrowed during Connect; -1: none
  int flight_record_fd = -1;       // likewise
  const uint8_t* nonce = nullptr;  // proto::kNonceBytes that stay where they are while the session lives
  proto::Transfer want = proto::Transfer::kAuto;
};

// Memory shared with the daemon, unmapped on destruction.
class Mapping {
 public:
  Mapping() = default;
  static absl::StatusOr<Mapping> Map(int fd, int64_t size_bytes, bool writable);
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

struct CopyRequest {
  proto::Copy head;
  std::vector<proto::CopyEntry> entries;
};

// A frame of the daemon that asks for a copy. INVALID_ARGUMENT: another kind, or a size that is not that of
// its entries.
absl::StatusOr<CopyRequest> ParseCopy(absl::Span<const std::byte> frame);

// The descriptor of a piece of GPU memory that the daemon owns: `gpu` (a UUID, 16 bytes) and `ordinal` as
// Sessions.Allocate named it, in the session of `token_hex`. On a connection of its own. UNAVAILABLE: nobody listens,
// or no answer in time; what the daemon refuses comes back with its code and reason.
absl::StatusOr<UniqueFd> FetchMemory(const std::string& socket_path, const std::string& token_hex,
                                     const std::string& gpu, uint64_t ordinal, Deadline deadline);

// Thread-safe, but ReadCopy has one caller at a time.
class HandoffClient final : public SessionPages {
 public:
  // Connects and shakes hands. UNAVAILABLE: nobody listens (reason NO_DAEMON) or no answer in time; what the
  // daemon refuses comes back with its code and reason; FAILED_PRECONDITION: what it handed over is unusable.
  static absl::StatusOr<std::shared_ptr<HandoffClient>> Connect(const HandoffSpec& spec, Deadline deadline);

  const proto::DaemonPage& daemon() const override;
  proto::ClientPage& client() const override;
  void Notify() override;
  bool AskSave(const std::string& request) override;
  bool DaemonGone() const override;
  void AwaitGone(int wake_fd, int64_t timeout_ms) const override;

  const std::string& token_hex() const { return token_hex_; }
  proto::Transfer transfer() const { return transfer_; }
  bool maps_gpu_memory() const { return maps_gpu_memory_; }
  std::byte* window() const { return window_.data(); }
  size_t window_bytes() const { return window_.size(); }
  int32_t daemon_pid() const { return daemon_pid_; }
  int socket_fd() const { return socket_.get(); }

  // Blocks for the daemon's next copy request. UNAVAILABLE: the connection has ended. INVALID_ARGUMENT: a
  // frame that is none.
  absl::StatusOr<CopyRequest> ReadCopy();
  void SendCopyDone(uint64_t id, int error);

  // Hands over descriptors of GPU memory, numbered from `first`, 1 to proto::kMaxDescriptors. Blocks while
  // too many are on their way. UNAVAILABLE: the connection has ended. DEADLINE_EXCEEDED: the daemon takes
  // none.
  absl::Status SendDescriptors(uint64_t first, const std::vector<UniqueFd>& fds, Deadline deadline);

  // Says that the session is over and will not resume.
  void SendGoodbye();

  // Ends the connection and wakes ReadCopy; the pages stay.
  void Shutdown();

 private:
  HandoffClient() = default;
  absl::Status SendHello(const HandoffSpec& spec);
  absl::Status ReadWelcome(Deadline deadline);
  absl::Status Adopt(const proto::Welcome& welcome, std::vector<UniqueFd> fds);
  void IdentifyDaemon();
  int LifeFd() const;

  UniqueFd socket_;
  UniqueFd pidfd_;  // none where the system offers none; then the connection's end stands for the daemon's
  int32_t daemon_pid_ = 0;
  std::string token_hex_;
  proto::Transfer transfer_ = proto::Transfer::kPull;
  bool maps_gpu_memory_ = false;
  Mapping daemon_page_, client_page_, window_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_HANDOFF_CLIENT_H_
