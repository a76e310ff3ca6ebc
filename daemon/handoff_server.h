// The handoff socket's server (proto/handoff.h): one thread, epoll, bounded connections.
//
//   1. A connection has 10 s to say Hello. A frame of the wrong size, kind, magic or direction, or with
//   descriptors
//      that it must not carry, closes the connection it came on; nothing else happens.
//   2. Fetch in the place of Hello → the descriptor of a piece of owned memory, or Refused; either is the last.
//   3. Hello → credentials (SO_PEERCRED), pidfd, pages, pull or window → Welcome, or Refused with code and
//   reason.
//   4. A closed connection is reported as lost; the pidfd stays watched until Forget, and its end is reported
//   as
//      death.

#ifndef KEEPSTEP_DAEMON_HANDOFF_SERVER_H_
#define KEEPSTEP_DAEMON_HANDOFF_SERVER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/client_session.h"
#include "daemon/frame_socket.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

struct HandoffSpec {
  std::string socket_path;  // nothing is there
  int max_connections = 4096;
  int64_t window_bytes = kDefaultWindowBytes;
  std::shared_ptr<RegistrationBudget> registrations;  // of all sessions
  DeviceHub* devices = nullptr;                       // null: GPU memory is not mapped
  PiecesByProcess* pieces = nullptr;                  // null: the daemon owns no GPU memory
};

// Called on the server's thread; must not block for long, and must not destroy the server.
class HandoffEvents {
 public:
  virtual ~HandoffEvents() = default;
  virtual absl::Status Admit() = 0;  // before a session is made; an error is sent as Refused
  virtual void OnSession(std::shared_ptr<ClientSession> session) = 0;  // before its Welcome is sent
  virtual void OnNotify(ClientSession& session) = 0;
  virtual void OnAskSave(const std::shared_ptr<ClientSession>& session, absl::string_view request) = 0;
  virtual void OnLost(ClientSession& session) = 0;  // the connection ended
  // The process ended, or (`left`) said that the session is over; last call about this session.
  virtual void OnDead(ClientSession& session, bool left) = 0;
};

class HandoffServer {
 public:
  // `events` outlives the server.
  static absl::StatusOr<std::unique_ptr<HandoffServer>> Start(const HandoffSpec& spec, HandoffEvents* events);
  ~HandoffServer();
  HandoffServer(const HandoffServer&) = delete;
  HandoffServer& operator=(const HandoffServer&) = delete;

  // No longer watches the session's process; closes its connection. Any thread; does nothing for one that is
  // not known.
  void Forget(SessionId session);
  // For those who connect from now on: whoever is there stays. Any thread.
  void SetLimits(int max_connections, int64_t window_bytes);

 private:
  struct Connection {
    std::shared_ptr<FrameSocket> socket;  // null once closed
    std::shared_ptr<ClientSession> session;
    uid_t user = 0;
    std::chrono::steady_clock::time_point hello_by;
  };

  HandoffServer(const HandoffSpec& spec, HandoffEvents* events, storage::UniqueFd listener,
                storage::UniqueFd epoll, storage::UniqueFd wake);

  void Run();
  void Accept();
  void DropSilent();
  void ForgetRequested();
  void OnReadable(uint64_t id);
  bool OnFrame(Connection& connection, uint64_t id, ReceivedFrame frame);
  absl::Status OnFetch(Connection& connection, const ReceivedFrame& frame);
  absl::Status OnHello(Connection& connection, uint64_t id, ReceivedFrame frame);
  absl::Status Welcome(Connection& connection, uint64_t id, ClientSession::Parts parts);
  void Close(uint64_t id);
  void OnProcessEnded(uint64_t id, bool left);
  void Remove(uint64_t id);
  absl::Status Watch(int fd, uint64_t tag);

  const HandoffSpec spec_;
  HandoffEvents* const events_;
  storage::UniqueFd listener_, epoll_, wake_;
  std::atomic<int> max_connections_;
  std::atomic<int64_t> window_bytes_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Connection> connections_;  // a session's id is its connection's

  std::mutex mutex_;
  bool stopping_ = false;
  std::vector<SessionId> forget_;
  std::thread thread_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_HANDOFF_SERVER_H_
