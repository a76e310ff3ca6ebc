#include "tests/fake_cuda/copy_engine.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <thread>

namespace keepstep::fake_cuda {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kStepBytes = size_t{1} << 20;
// Sleeping less than this takes longer than it says.
constexpr auto kShortestSleep = std::chrono::microseconds(100);
// How much of a delay, of memory or of the scheduler, later copies may make good.
constexpr auto kMostCatchUp = std::chrono::milliseconds(200);

void SleepUntil(Time due) {
  if (due - Clock::now() > kShortestSleep) std::this_thread::sleep_until(due);
}

// Copies in steps and calls `after` with the bytes done so far.
void InSteps(const std::vector<Piece>& to, const std::vector<Piece>& from,
             const std::function<void(size_t)>& after) {
  size_t done = 0, to_offset = 0, from_offset = 0;
  auto target = to.begin();
  for (auto source = from.begin(); source != from.end() && target != to.end();) {
    const size_t bytes =
        std::min({kStepBytes, target->size_bytes - to_offset, source->size_bytes - from_offset});
    std::memmove(target->data + to_offset, source->data + from_offset, bytes);
    done += bytes;
    after(done);
    if ((to_offset += bytes) == target->size_bytes) ++target, to_offset = 0;
    if ((from_offset += bytes) == source->size_bytes) ++source, from_offset = 0;
  }
}

}  // namespace

Time CopyEngine::Copy(const std::vector<Piece>& to, const std::vector<Piece>& from, Time ready) {
  if (gigabytes_per_second_ == 0) {
    InSteps(to, from, [](size_t) {});
    return Clock::now();
  }
  std::lock_guard lock(mutex_);
  const Time begin = std::max({ready, free_at_, Clock::now() - kMostCatchUp}) + copy_ns_;
  InSteps(to, from, [&](size_t done) {
    free_at_ = begin + std::chrono::nanoseconds(
                           static_cast<int64_t>(static_cast<double>(done) / gigabytes_per_second_));
    SleepUntil(free_at_);
  });
  return free_at_;
}

}  // namespace keepstep::fake_cuda
