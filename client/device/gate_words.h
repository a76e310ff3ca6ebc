// The gate in stream order: words in pinned host memory, one a group, that streams of the GPU wait on.
//
// A word holds the number of the newest save for which its group may change, modulo 2^32; it only grows. The words are
// this process's own and raised by its own thread (client/stream_gates.h): the daemon's page cannot be written by it and
// need not be pinned, and whatever opens the gate on the host, the watchdog too, opens it here.

#ifndef KEEPSTEP_CLIENT_DEVICE_GATE_WORDS_H_
#define KEEPSTEP_CLIENT_DEVICE_GATE_WORDS_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>

#include "absl/status/statusor.h"
#include "client/device/contexts.h"
#include "proto/session_page.h"

namespace keepstep::client {

// Thread-safe.
class GateWords {
 public:
  explicit GateWords(const cuda::Driver& cu) : cu_(cu) {}
  // Nothing waits on them any more, or never mind: the process ends.
  ~GateWords();

  // Lets what is queued on `stream` from now on wait until Raise(group, `number` or above). False: the driver has no
  // such operation, or does not pin memory; nothing was queued. ABORTED (DEVICE_ERROR): the driver failed.
  absl::StatusOr<bool> Follow(CUstream stream, uint32_t group, uint64_t number);

  void Raise(uint32_t group, uint64_t number);

 private:
  absl::StatusOr<CUdeviceptr> WordsIn(CUcontext context);  // current; 0: it does not pin them

  const cuda::Driver& cu_;
  std::mutex mu_;
  bool pinned_ = false, refused_ = false;      // guarded by mu_
  std::map<CUcontext, CUdeviceptr> addresses_;  // guarded by mu_
  alignas(4096) std::atomic<uint32_t> words_[proto::kMaxGroups] = {};
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_GATE_WORDS_H_
