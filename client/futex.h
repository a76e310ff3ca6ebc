// Waiting for a word in shared memory to change.

#ifndef KEEPSTEP_CLIENT_FUTEX_H_
#define KEEPSTEP_CLIENT_FUTEX_H_

#include <atomic>
#include <cstdint>

namespace keepstep::client {

// Blocks while `word` is `seen`, at most `timeout_ms`; may return early. `bits`: which wakes count. The
// memory may be mapped to read only.
void FutexWait(const std::atomic<uint32_t>& word, uint32_t seen, int64_t timeout_ms, uint32_t bits);

// Wakes every waiter of this process and of others.
void FutexWakeAll(const std::atomic<uint32_t>& word);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_FUTEX_H_
