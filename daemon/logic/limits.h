// Every limit that a job's logic works under. Defaults are the design's; `doctor` shows them.

#ifndef KEEPSTEP_DAEMON_LOGIC_LIMITS_H_
#define KEEPSTEP_DAEMON_LOGIC_LIMITS_H_

#include <cstddef>
#include <cstdint>

#include "daemon/logic/events.h"

namespace keepstep::daemon {

struct Limits {
  int max_saves_in_flight = 2;
  int max_saves_queued = 8;    // accepted under `wait`, not started
  int max_arrivals_held = 16;  // of one session, while the roster is incomplete
  int max_collections_waiting = 8;
  uint64_t verdict_history = 64;  // newest save numbers whose outcome is remembered
  int32_t max_world_size = 16384;
  Millis resume_ms = 30'000;            // a lost stream with a live process
  Millis roster_ms = 600'000;           // load and save wait this long for ranks that have not joined
  Millis save_progress_ms = 1'800'000;  // a save without any progress
  Millis claim_unsealed_ms = 30'000;    // what a claim grants to saves that some rank has yet to seal
  Millis claim_sealed_ms = 300'000;     // and to those that only have to become durable
  Millis abort_report_ms = 60'000;      // FAILED is told after this, part or not, even if ABORT cannot be published
  Millis no_room_ms = 5'000;            // … and after this if what it lacks is room on storage
  Millis recover_ms = 60'000;           // sessions wait this long for an earlier daemon's saves to be settled
  Millis load_ms = 600'000;  // a load that starts an epoch waits this long for the other ranks to ask
  Millis drain_ms = 600'000;
  Millis retry_first_ms = 200;    // doubled after each failure …
  Millis retry_most_ms = 30'000;  // … up to this
  Millis retry_no_room_ms = 1'000;  // … or this, if what failed had no room: freeing some is quick
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_LIMITS_H_
