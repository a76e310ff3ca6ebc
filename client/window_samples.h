// Samples of tensors in GPU memory that goes through the window, where this process copies and the daemon cannot look:
// the counterpart of daemon/save_samples.h.
//
//   1. Mark: the save's place in its streams is marked; its samples are due.
//   2. BeforeCopy: the copy thread, asked for the first bytes of a save, reads what is due first, after the marks.
//   3. Changed: when the daemon has released a group, its last copy is over; what is there now is compared.
// A save of which nothing was copied has no samples: there is nothing that an update could have torn.

#ifndef KEEPSTEP_CLIENT_WINDOW_SAMPLES_H_
#define KEEPSTEP_CLIENT_WINDOW_SAMPLES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "client/device/devices.h"
#include "client/save_ledger.h"

namespace keepstep::client {

struct Declared;

// Thread-safe.
class WindowSamples final : public GroupCheck {
 public:
  explicit WindowSamples(Devices* devices) : devices_(devices) {}  // it outlives this

  // Save `number` is marked. `plan` lies in buffers of `declared` that go through the window; may be null.
  void Mark(uint64_t number, std::shared_ptr<const DeviceSamplePlan> plan, std::shared_ptr<const Declared> declared);

  // No save is in flight, and what they were of may be freed from now on.
  void Forget();

  // By the copy thread, before anything is copied out of this process. Blocks until the GPU has reached the marks.
  void BeforeCopy();

  // Reads the group's samples again; does not wait for work of the program.
  absl::Status Check(uint64_t number, uint32_t group) override;

 private:
  struct Save {
    std::shared_ptr<const DeviceSamplePlan> plan;
    std::shared_ptr<const Declared> declared;
    std::map<uint32_t, std::vector<std::byte>> taken;  // by group
    absl::Status failure;  // of reading them
    bool due = true;
  };

  Devices* devices_;
  std::atomic<bool> due_{false};  // any save's may be
  std::mutex mu_;
  std::map<uint64_t, Save> saves_;  // guarded by mu_; the newest
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_WINDOW_SAMPLES_H_
