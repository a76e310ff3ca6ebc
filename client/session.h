// A session with the local daemon, kept alive: one thread connects, opens, registers, and does it all again
// with the same nonce and epoch when the daemon comes back.
//
//   1. Handoff: pages, transfer, token.     2. SaveLedger::Install: open verdicts move to the new page.
//   3. Open, naming epoch and saves issued. 4. Opened: SaveLedger::Resumed, then the registration again.
//   5. Connected: calls go through. The stream's end leads back to 1 after a pause, or ends the session when
//      the daemon says that it cannot go on (a stale epoch): then gates open, open saves fail, and every call
//      gets that error.

#ifndef KEEPSTEP_CLIENT_SESSION_H_
#define KEEPSTEP_CLIENT_SESSION_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/address.h"
#include "client/buffer_table.h"
#include "client/channel.h"
#include "client/copy_thread.h"
#include "client/device_paths.h"
#include "client/flight_recorder.h"
#include "client/handoff_client.h"
#include "client/limits.h"
#include "client/registration.h"
#include "client/save_ledger.h"
#include "client/stop_flag.h"
#include "client/window_samples.h"

namespace keepstep::client {

struct SessionSpec {
  Address address;
  std::string directory;
  proto::Transfer transfer = proto::Transfer::kAuto;
  v1::OpenRequest open;  // epoch, nonce and counts are filled in by the session
  Limits limits;
  bool rescue = false;                 // crash flush is asked for
  FlightRecorder* recorder = nullptr;  // outlives the session; null: there is none
};

struct SessionInfo {
  int64_t epoch = 0;
  proto::Transfer transfer = proto::Transfer::kAuto;
  std::string daemon_version, job;
  bool copies_gpu_memory = false;  // some of the registration's goes through the window
  std::string device_paths;  // of the registration that stands; "": it holds no GPU memory
  bool maps_gpu_memory = false;
  bool connected = false;
};

// Thread-safe.
class Session {
 public:
  // Blocks until the session is open. UNAVAILABLE (NO_DAEMON) at once; a daemon that is starting or draining
  // is waited for until `deadline`. `ledger`, `buffers`, `devices` and `samples` outlive the session.
  static absl::StatusOr<std::unique_ptr<Session>> Start(SessionSpec spec, SaveLedger* ledger,
                                                        BufferTable* buffers, Devices* devices,
                                                        WindowSamples* samples, Deadline deadline);
  ~Session();

  // Says goodbye and cancels what is under way; every waiting and later call fails. Idempotent.
  void Close();

  struct Connection {
    std::shared_ptr<Channel> channel;
    std::shared_ptr<HandoffClient> handoff;
  };

  // A connected session's, waiting for one. DEADLINE_EXCEEDED (reason DISCONNECTED), or why the session ended.
  absl::StatusOr<Connection> AwaitConnection(Deadline deadline);
  // The channel of a connected session, waiting for one. DEADLINE_EXCEEDED (reason DISCONNECTED), or why the
  // session ended.
  absl::StatusOr<std::shared_ptr<Channel>> AwaitConnected(Deadline deadline);

  // Replaces the registration, trying again over lost connections. On error the old one stands. A session by
  // pull that needs the window for GPU memory is opened anew with one. FAILED_PRECONDITION (NEEDS_WINDOW):
  // pull was demanded.
  absl::Status Register(std::shared_ptr<const Declared> declared, Deadline deadline);
  std::shared_ptr<const Declared> declared() const;
  uint64_t generation() const;

  // Whether GPU memory goes through the window, and what is sampled of it; null: nothing.
  bool copies_gpu_memory() const;
  std::shared_ptr<const DeviceSamplePlan> window_samples() const;

  const Address& address() const { return spec_.address; }

  void StoreStep(int64_t step);
  void WishSave();
  SessionInfo info() const;

  // In a forked child: closes this process's copies of the descriptors, so that the parent's end stays
  // visible.
  void AbandonInChild();

 private:
  Session(SessionSpec spec, SaveLedger* ledger, BufferTable* buffers, Devices* devices, WindowSamples* samples);
  absl::Status OpenDirectory();
  void Run();
  absl::Status ConnectAndServe();
  absl::Status Serve(const std::shared_ptr<HandoffClient>& handoff, bool restarted);
  absl::Status Opened(const v1::Opened& opened, bool restarted, const Connection& connection);
  absl::Status RegisterAgain(const Connection& connection);
  absl::Status Send(const Declared& declared, const Connection& connection, Deadline deadline);
  absl::Status SendOnce(const Declared& declared, const Connection& connection, bool maps, Deadline deadline);
  absl::Status AskForWindow(const Connection& connection);
  bool Ends(const absl::Status& status) const;
  void End(const absl::Status& status);
  v1::OpenRequest OpenMessage() const;

  const SessionSpec spec_;
  SaveLedger* ledger_;
  BufferTable* buffers_;
  Devices* devices_;
  WindowSamples* samples_;
  UniqueFd directory_;                // held from the first opening: a resumed session is of the same job
  std::unique_ptr<uint8_t[]> nonce_;  // the daemon reads it through this process's memory
  StopFlag stop_;

  std::atomic<int> socket_fd_{-1};  // of handoff_, for a forked child, where mu_ may be locked for ever

  std::mutex send_mu_;  // one generation at a time
  DescriptorBook book_;  // guarded by send_mu_
  std::shared_ptr<HandoffClient>
      cannot_map_;  // guarded by send_mu_; whose daemon tried to map GPU memory in vain

  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::shared_ptr<Channel> channel_;          // guarded by mu_; of the connection being opened or open
  std::shared_ptr<HandoffClient> handoff_;    // guarded by mu_; of the same connection, or the last
  std::shared_ptr<const Declared> declared_;  // guarded by mu_
  uint64_t generation_ = 0;                   // guarded by mu_
  int64_t step_stored_ = -1;                  // guarded by mu_
  bool wishes_save_ = false;                  // guarded by mu_
  bool opened_once_ = false;                  // guarded by mu_
  bool wants_window_ = false;                 // guarded by mu_; for GPU memory, whatever the spec says
  SessionInfo info_;                          // guarded by mu_
  std::shared_ptr<const DeviceSamplePlan> window_samples_;  // guarded by mu_; of the registration that stands
  absl::Status last_try_;                     // guarded by mu_; why the last connection ended or failed
  absl::Status ended_;                        // guarded by mu_; not OK: for good

  std::thread keeper_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_SESSION_H_
