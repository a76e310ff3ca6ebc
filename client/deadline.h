// A point in monotonic time at which a call gives up.

#ifndef KEEPSTEP_CLIENT_DEADLINE_H_
#define KEEPSTEP_CLIENT_DEADLINE_H_

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace keepstep::client {

using Deadline = std::chrono::steady_clock::time_point;

inline constexpr Deadline kNever = Deadline::max();

// Negative: never.
inline Deadline After(int64_t timeout_ms) {
  constexpr int64_t kMostMs = int64_t{1} << 40;
  if (timeout_ms < 0 || timeout_ms > kMostMs) return kNever;
  return std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
}

// Milliseconds until `deadline`, at least 0 and at most `most_ms`.
inline int64_t RemainingMs(Deadline deadline, int64_t most_ms) {
  if (deadline == kNever) return most_ms;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return std::clamp<int64_t>(left.count(), 0, most_ms);
}

inline bool Expired(Deadline deadline) {
  return deadline != kNever && std::chrono::steady_clock::now() >= deadline;
}

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEADLINE_H_
