// The gate for groups that lie in GPU memory alone: the stream waits, the program's thread does not.
//
//   1. A wait for the group's newest save is queued on the stream (device/gate_words.h), behind everything that is
//      queued there already, and BeforeUpdate returns.
//   2. A thread of the library waits on the host, for that save and those before it alone: a later save's copy comes
//      after the queued update, so nobody may wait for it here.
//   3. It raises the group's word, and the GPU goes on.
// Where the driver has no such wait, the group holds host memory, or GPU memory goes through the window, the host waits
// as in Gate.

#ifndef KEEPSTEP_CLIENT_STREAM_GATES_H_
#define KEEPSTEP_CLIENT_STREAM_GATES_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "client/deadline.h"
#include "client/device/devices.h"
#include "client/gate.h"
#include "client/save_ledger.h"
#include "client/session.h"

namespace keepstep::client {

// Thread-safe.
class StreamGates {
 public:
  // All outlive it.
  StreamGates(Session* session, SaveLedger* ledger, Gate* gate, Devices* devices)
      : session_(session), ledger_(ledger), gate_(gate), devices_(devices) {}
  ~StreamGates();  // opens what is still shut: no stream may stand for ever

  // As Gate::Wait, for what is queued on `stream` (a CUstream of the group's GPU) from now on. Errors of the driver
  // besides.
  absl::Status BeforeUpdate(uint32_t group, void* stream, Deadline deadline);

 private:
  struct Owed {
    uint32_t group = 0;
    uint64_t number = 0;
  };

  bool OnGpuAlone(uint32_t group);
  void Owe(Owed owed);
  bool RaiseOpen();  // of what is owed; whether any was
  void Run();

  Session* session_;
  SaveLedger* ledger_;
  Gate* gate_;
  Devices* devices_;

  std::mutex mu_;
  std::condition_variable wake_;
  std::vector<Owed> owed_;  // guarded by mu_; waits that are queued and not met
  bool stopping_ = false;  // guarded by mu_
  std::thread keeper_;     // started with the first; guarded by mu_ until then
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_STREAM_GATES_H_
