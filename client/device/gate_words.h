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
#include <memory>
#include <mutex>

#include "absl/status/statusor.h"
#include "client/device/contexts.h"
#include "proto/session_page.h"

namespace keepstep::client {

// Thread-safe.
class GateWords {
 public:
  // `contexts` outlives it.
  GateWords(const cuda::Driver& cu, Contexts* contexts) : cu_(cu), contexts_(contexts) {}
  // Words that a stream was told to wait for stay where they are, pinned, for as long as the process lives: the GPU may
  // have yet to come to that wait, and would find other memory there.
  ~GateWords();

  // Lets what is queued on `stream` from now on wait until Raise(group, `number` or above). False: the driver has no
  // such operation, or does not pin memory; nothing was queued. ABORTED (DEVICE_ERROR): the driver failed.
  absl::StatusOr<bool> Follow(CUstream stream, uint32_t group, uint64_t number);

  void Raise(uint32_t group, uint64_t number);

 private:
  struct Words {
    alignas(4096) std::atomic<uint32_t> of_group[proto::kMaxGroups] = {};
  };

  absl::StatusOr<CUdeviceptr> WordsIn(CUcontext context);  // current; 0: it does not pin them

  const cuda::Driver& cu_;
  Contexts* contexts_;
  std::mutex mu_;
  bool pinned_ = false, refused_ = false;      // guarded by mu_
  std::map<CUcontext, CUdeviceptr> addresses_;  // guarded by mu_
  bool waited_for_ = false;                      // guarded by mu_
  std::unique_ptr<Words> words_ = std::make_unique<Words>();
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_GATE_WORDS_H_
