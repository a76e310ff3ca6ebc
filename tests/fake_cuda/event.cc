#include "tests/fake_cuda/event.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace keepstep::fake_cuda {
namespace {

uint32_t* Word(std::atomic<uint32_t>& word) { return reinterpret_cast<uint32_t*>(&word); }

// A while, or until somebody wakes the word.
void Sleep(std::atomic<uint32_t>& word, uint32_t seen) {
  const timespec a_while{.tv_sec = 0, .tv_nsec = 5'000'000};
  syscall(SYS_futex, Word(word), FUTEX_WAIT, seen, &a_while, nullptr, 0);
}

}  // namespace

std::shared_ptr<Event> Event::Create(const Uuid& device, bool interprocess, bool timed) {
  std::shared_ptr<Event> event(new Event);
  event->timed_ = timed;
  if (!interprocess) {
    event->state_ = std::make_shared<EventState>();
    return event;
  }
  event->physical_ = Physical::Create(Use::kEvent, device, sizeof(EventState));
  if (!event->physical_) return nullptr;
  event->state_ = {event->physical_, reinterpret_cast<EventState*>(event->physical_->data())};
  return event;
}

std::shared_ptr<Event> Event::Import(std::shared_ptr<Physical> physical) {
  std::shared_ptr<Event> event(new Event);
  event->imported_ = true;
  event->physical_ = std::move(physical);
  event->state_ = {event->physical_, reinterpret_cast<EventState*>(event->physical_->data())};
  return event;
}

void Event::Record(Context& context, Stream& stream) {
  const uint32_t record = ++state_->recorded;
  context.Enqueue(stream, [state = state_, record](Time ready) {
    state->completed_at_ns =
        std::chrono::duration_cast<std::chrono::nanoseconds>(ready.time_since_epoch()).count();
    uint32_t completed = state->completed;
    while (completed < record && !state->completed.compare_exchange_weak(completed, record)) {
    }
    syscall(SYS_futex, Word(state->completed), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
    return ready;
  });
}

bool Event::Completed(uint32_t record) const { return state_->completed >= record; }

void Event::Wait(uint32_t record, const Sticky& sticky) const {
  for (uint32_t seen = state_->completed; seen < record && sticky.code() == CUDA_SUCCESS;
       seen = state_->completed) {
    Sleep(state_->completed, seen);
  }
}

}  // namespace keepstep::fake_cuda
