// One client: the parts that a ks_client is made of, in the order in which they depend on each other.

#ifndef KEEPSTEP_CLIENT_CLIENT_H_
#define KEEPSTEP_CLIENT_CLIENT_H_

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/buffer_table.h"
#include "client/device/devices.h"
#include "client/flight_recorder.h"
#include "client/gate.h"
#include "client/grpc_use.h"
#include "client/owned_memory.h"
#include "client/save_ledger.h"
#include "client/saves.h"
#include "client/sealer.h"
#include "client/session.h"
#include "client/stream_gates.h"
#include "client/watchdog.h"

namespace keepstep::client {

// Thread-safe, but for destruction.
class Client {
 public:
  static absl::StatusOr<std::unique_ptr<Client>> Open(SessionSpec spec, Deadline deadline);
  ~Client();  // seals what can be sealed, ends the session

  Session& session() { return *session_; }
  Saves& saves() { return *saves_; }
  Gate& gate() { return gate_; }
  StreamGates& stream_gates() { return *stream_gates_; }
  OwnedMemory& owned_memory() { return *owned_memory_; }
  // Null: crash flush was not asked for.
  FlightRecorder* recorder() { return recorder_.get(); }
  const Limits& limits() const { return limits_; }

  // The gates of the group: on the host (Gate::Wait), or for work that is queued on `stream` from now on
  // (StreamGates::BeforeUpdate), which the flight record hears of.
  absl::Status BeforeUpdate(uint32_t group, Deadline deadline);
  absl::Status BeforeUpdateOn(uint32_t group, void* stream, Deadline deadline);

  // The same answer on every rank: `step` is a positive multiple of `every`, or the step that the job was
  // asked for.
  bool ShouldSave(int64_t step, int64_t every);
  // Asks for such a step. One wish for each client; no RPC, and none is lost with a connection.
  void WishSave() { session_->WishSave(); }

  struct Loaded {
    v1::LoadReport report;
    bool warm = false;     // nothing was loaded: the registered memory was kept, and is of the report's step
    std::string why_cold;  // of a client that was opened with warm
  };

  // Fills the registered buffers once every gate is open and the GPUs that hold any have done what was
  // queued, trying again over lost connections. `request` lacks the generation. `on_progress` is called on
  // this thread.
  //
  // The first load of a client that was opened with warm, if it is of the latest step and everything registered, asks
  // first whether the world goes on with kept memory. Whatever it is, kept memory may be written from then on.
  absl::StatusOr<Loaded> Load(v1::LoadRequest request, Deadline deadline,
                              const std::function<void(const v1::LoadProgress&)>& on_progress);

  absl::StatusOr<v1::GetExtraResponse> GetExtras(const v1::GetExtraRequest& request, Deadline deadline);

  // Committed steps of the session's job, newest last.
  absl::StatusOr<std::vector<int64_t>> Steps(Deadline deadline);

  // Whether the calling process is a fork of the one that opened the client: nothing but Abandon may be
  // called there.
  bool Forked() const;
  // In the fork: lets go of the parent's connection. Threads and locks do not survive a fork, so the rest is
  // left alone.
  void Abandon() { session_->AbandonInChild(); }

 private:
  explicit Client(const Limits& limits);
  absl::Status Restart(Deadline deadline, v1::RestartResponse* response);

  const GrpcUse grpc_;  // first: gRPC's last user in this process closes it when all else is gone
  const pid_t owner_;
  const Limits limits_;
  std::atomic<bool> may_restart_{false};  // warm, and nothing was loaded yet
  std::mutex restart_mu_;
  absl::Status restart_lost_;  // guarded by restart_mu_; not OK: every load fails with it
  BufferTable buffers_;
  Devices devices_;
  WindowSamples window_samples_;
  std::unique_ptr<FlightRecorder> recorder_;
  SaveLedger ledger_;
  Gate gate_;
  std::unique_ptr<Watchdog> watchdog_;
  std::unique_ptr<Sealer> sealer_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Saves> saves_;
  std::unique_ptr<StreamGates> stream_gates_;
  std::unique_ptr<OwnedMemory> owned_memory_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_CLIENT_H_
