// One client that has shaken hands: who it is, the pages, the way to its memory, what it has registered.
//
// Made by the handoff server; joins a job by Sessions.Open or only looks. Its pull or window port keeps the
// session alive while a save or load uses it; after End() the port fails instead of reaching anyone's memory.

#ifndef KEEPSTEP_DAEMON_CLIENT_SESSION_H_
#define KEEPSTEP_DAEMON_CLIENT_SESSION_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/device/session_memory.h"
#include "daemon/frame_socket.h"
#include "daemon/logic/events.h"
#include "daemon/memory_port.h"
#include "daemon/pages.h"
#include "daemon/pull_port.h"
#include "daemon/registration.h"
#include "daemon/window_port.h"
#include "proto/flight_reader.h"
#include "proto/handoff.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

class Job;

struct Peer {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};

// How a session takes part in a job; set once, by Open.
struct Membership {
  std::shared_ptr<Job> job;
  bool training = false;
  bool warm = false;    // what the daemon owns for it is kept when it dies
  bool rescue = false;  // its memory is saved when all have died, if it has a flight record
  int32_t rank = 0, world_size = 1;
  reshard::Mesh mesh;
  std::string run;
};

// What a rank that has gone on with kept memory finds of the step that was never saved.
struct WarmExtras {
  int64_t step = 0;
  std::vector<v1::Extra> extras;  // of all ranks
};

// Thread-safe.
class ClientSession : public std::enable_shared_from_this<ClientSession> {
 public:
  struct Parts {
    SessionId id = 0;
    std::string token;  // 32 hex digits
    Peer peer;
    storage::UniqueFd pidfd;
    storage::UniqueFd directory_fd;  // may be none
    std::string directory;           // as the client named it
    std::shared_ptr<FrameSocket> socket;
    std::unique_ptr<SessionPages> pages;
    proto::Hello hello;
    storage::UniqueFd flight_record;  // proto/flight_record.h; may be none
    int64_t window_bytes = kDefaultWindowBytes;
    std::shared_ptr<RegistrationBudget> registrations;  // that of all sessions
    DeviceHub* devices = nullptr;                       // null: GPU memory is not mapped
    std::shared_ptr<TrainerPieces> pieces;              // null: none can be had
  };

  // Decides between pull and window. FAILED_PRECONDITION: the client insists on pull and the kernel refuses
  // it.
  static absl::StatusOr<std::shared_ptr<ClientSession>> Make(Parts parts);

  SessionId id() const { return parts_.id; }
  const std::string& token() const { return parts_.token; }
  const Peer& peer() const { return parts_.peer; }
  int pidfd() const { return parts_.pidfd.get(); }
  int directory_fd() const { return parts_.directory_fd.get(); }  // -1: none
  int flight_record() const { return parts_.flight_record.get(); }  // -1: none
  const std::string& directory() const { return parts_.directory; }
  std::optional<mode_t> umask() const {
    return parts_.hello.has_umask != 0 ? std::optional<mode_t>(parts_.hello.umask) : std::nullopt;
  }
  SessionPages& pages() { return *parts_.pages; }
  FrameSocket& socket() { return *parts_.socket; }
  proto::Transfer transfer() const {
    return window_.has_value() ? proto::Transfer::kWindow : proto::Transfer::kPull;
  }
  int window_fd() const { return window_.has_value() ? window_->fd() : -1; }
  int64_t window_bytes() const { return window_.has_value() ? parts_.window_bytes : 0; }

  // The way to the memory of `registration`, after the work that `fences` stand for.
  std::shared_ptr<MemoryPort> port(std::shared_ptr<const Registration> registration,
                                   std::vector<Fence> fences = {});
  // The way to the same memory once the process is dead: host memory as `note` has it, GPU memory through the mappings.
  std::shared_ptr<MemoryPort> port_of_record(std::shared_ptr<const Registration> registration,
                                             std::shared_ptr<const proto::FlightNote> note);
  bool maps_gpu_memory() const { return memory_.hub() != nullptr; }
  // Descriptors of GPU memory. An error closes the connection.
  absl::Status OnDescriptors(uint64_t first, std::vector<storage::UniqueFd> descriptors) {
    return memory_.Take(first, std::move(descriptors));
  }
  // The GPU memory that the daemon owns for this process.
  TrainerPieces& pieces() const { return *pieces_; }
  // The job's epoch that it is a member of, as it was told last; 0: none yet.
  void SetEpoch(int64_t epoch) { epoch_ = epoch; }
  int64_t epoch() const { return epoch_; }
  // Null: it has not gone on with kept memory.
  void SetWarmExtras(std::shared_ptr<const WarmExtras> extras);
  std::shared_ptr<const WarmExtras> warm_extras() const;
  void OnCopyDone(uint64_t id, int32_t error);

  // Notices of one client are taken together: true for the first since NoticeTaken.
  bool NoticeCame() { return !noticed_.exchange(true); }
  void NoticeTaken() { noticed_ = false; }

  // Asks of one client that wait for their answer. False: too many; Sessions.Save is the way then.
  bool AskCame() { return asks_.fetch_add(1) < kMaxAsks || (--asks_, false); }
  void AskAnswered() { --asks_; }

  // The connection is gone: window transfers fail at once. Pull goes on while the process lives.
  void OnDisconnected();
  // Nothing of this client's memory is to be reached any more. Idempotent.
  void End(absl::Status why);
  bool ended() const;
  // Runs once, when the session ends, or now if it has: closes what the client still listens to.
  void AtEnd(std::function<void(const absl::Status&)> hook);

  // FAILED_PRECONDITION when it has joined already.
  absl::Status Join(Membership membership);
  std::optional<Membership> membership() const;

  // ---- crash flush ----
  // Whether its memory is kept when its process dies; of the newest registration.
  struct RescueGrant {
    bool granted = false;
    std::string why_not;  // of a session with a flight record
  };
  void SetRescue(RescueGrant grant);
  RescueGrant rescue() const;
  int64_t gpu_bytes() const;  // that it has mapped, of its newest registration

  // ---- registrations ----
  // As RegistrationBuilder. A new generation's GPU memory is mapped, then what only the old one had is closed; blocks
  // for as long as that takes. What an answer of OK says is closed may be freed.
  absl::StatusOr<std::shared_ptr<const Registration>> Register(const v1::RegisterRequest& request);
  std::shared_ptr<const Registration> registration() const;  // the newest; null: none
  // One of the newest few generations. 0: the newest. NOT_FOUND.
  absl::StatusOr<std::shared_ptr<const Registration>> RegistrationOf(uint64_t generation) const;

 private:
  static constexpr int kMaxAsks = proto::kSaveSlots;
  explicit ClientSession(Parts parts)
      : parts_(std::move(parts)),
        pieces_(parts_.pieces != nullptr ? std::move(parts_.pieces) : std::make_shared<TrainerPieces>()),
        memory_(parts_.devices, pieces_) {}
  absl::Status OpenGpuMemory(Registration& registration);

  Parts parts_;
  const std::shared_ptr<TrainerPieces> pieces_;
  SessionMemory memory_;
  std::optional<SharedMemory> window_;
  std::unique_ptr<PullPort> pull_port_;
  std::unique_ptr<WindowPort> window_port_;

  std::mutex register_mutex_;  // one message at a time; taken before mutex_
  std::atomic<int64_t> epoch_{0};
  std::atomic<bool> noticed_{false};
  std::atomic<int> asks_{0};
  mutable std::mutex mutex_;
  bool ended_ = false;
  RescueGrant rescue_;
  std::function<void(const absl::Status&)> at_end_;
  std::optional<Membership> membership_;
  std::shared_ptr<const WarmExtras> warm_extras_;
  std::unique_ptr<RegistrationBuilder> builder_;
  std::map<uint64_t, std::shared_ptr<const Registration>> registrations_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_CLIENT_SESSION_H_
