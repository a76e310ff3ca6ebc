// Every limit and period of the client. Programs take the defaults; tests may set each by name in
// $KEEPSTEP_LIMITS.

#ifndef KEEPSTEP_CLIENT_LIMITS_H_
#define KEEPSTEP_CLIENT_LIMITS_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace keepstep::client {

struct Limits {
  // The watchdog opens the gate, and fails the saves it holds, after this long without the daemon's heartbeat
  // …
  int64_t heartbeat_ms = 10'000;
  // … or while the daemon owes a copy and makes no progress.
  int64_t progress_ms = 300'000;
  int64_t watchdog_period_ms = 250;

  int64_t open_ms = 60'000;
  int64_t save_ms = 10'000;
  int64_t register_ms = 60'000;
  int64_t ask_ms = 100;     // an ask for a save that is not answered by then becomes a call
  int64_t page_ms = 1'000;  // a wait for a save asks the daemon once its page has said nothing new for so long
  int64_t rpc_ms = 10'000;  // one try of a call that is tried again
  int64_t handshake_ms = 5'000;

  // Between tries to resume a session; doubles from the first to the last.
  int64_t backoff_first_ms = 20;
  int64_t backoff_last_ms = 2'000;

  int64_t futex_slice_ms = 50;  // a lost wake costs at most this
  int copy_threads = 4;
};

// The defaults, changed as $KEEPSTEP_LIMITS says: "heartbeat_ms=1500,rpc_ms=200". INVALID_ARGUMENT names what
// is not a limit, or not a positive number.
absl::StatusOr<Limits> LimitsFromEnvironment();

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_LIMITS_H_
