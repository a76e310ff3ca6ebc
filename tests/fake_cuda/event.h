// An event. Its state is two counters: how often it was recorded, and which of these records work has passed.
// So "not recorded yet" is "nothing to wait for", and a later record never holds up who waits for an earlier
// one.
//
// The state of an interprocess event lies in memory that its importers map: they see records and completions
// as this process does. When the recording process dies nobody completes what it had queued, and who waits
// for that waits for good: no driver promises better.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_EVENT_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_EVENT_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "tests/fake_cuda/context.h"
#include "tests/fake_cuda/physical.h"

namespace keepstep::fake_cuda {

struct EventState {
  std::atomic<uint32_t> recorded;   // completed ≤ recorded
  std::atomic<uint32_t> completed;  // a futex word, of all processes
  std::atomic<int64_t> completed_at_ns;
};

// Thread-safe.
class Event {
 public:
  // Null when there is no memory for it.
  static std::shared_ptr<Event> Create(const Uuid& device, bool interprocess, bool timed);

  // The event that `physical`, opened from another process, is the state of.
  static std::shared_ptr<Event> Import(std::shared_ptr<Physical> physical);

  // Takes a number for a record that `stream` completes when it comes there.
  void Record(Context& context, Stream& stream);

  // The newest record, 0 when there is none.
  uint32_t newest() const { return state_->recorded.load(); }
  bool Completed(uint32_t record) const;

  // Blocks until `record` is completed, or `sticky` has an error.
  void Wait(uint32_t record, const Sticky& sticky) const;

  bool timed() const { return timed_; }
  bool imported() const { return imported_; }
  int64_t completed_at_ns() const { return state_->completed_at_ns.load(); }

  // Null unless interprocess.
  Physical* physical() const { return physical_.get(); }

 private:
  Event() = default;

  std::shared_ptr<Physical> physical_;
  std::shared_ptr<EventState> state_;
  bool timed_ = false;
  bool imported_ = false;
};

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_EVENT_H_
