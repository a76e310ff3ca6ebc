// One job's decisions: who is in the world, which saves run, when a part may be written, what every rank is
// told.
//
// A pure function of its construction and of the events it was given: no clock, no threads, no I/O. It joins
//   EpochMachine      who the job is now: joins, resumes, claims, LATEST and PARENT, loads
//   Coordinator       which save numbers run, wait, are skipped; verdicts; save_at; drain
//   SaveMachine       one attempt from its journal entry to its decision
//   ReconcileMachine  what an earlier daemon left
//   CollectMachine    what retention deletes
//
// Order that holds across all of them:
//   journal entry durable → copies start → all ranks sealed and flushed → part → COMMIT published
//     → catalog → COMMITTED reported → journal entry erased
//   ABORT published → blobs deleted → FAILED reported → journal entry erased
//
// The first event is JobStarted. Not thread-safe: one owner feeds it. Unknown sessions, attempts and
// operations in events are ignored, so late answers are harmless. Feed Tick at least every `kTickMs`; limits
// are only seen then.

#ifndef KEEPSTEP_DAEMON_LOGIC_JOB_MACHINE_H_
#define KEEPSTEP_DAEMON_LOGIC_JOB_MACHINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/logic/events.h"
#include "daemon/logic/limits.h"
#include "daemon/logic/snapshot.h"

namespace keepstep::daemon {

inline constexpr Millis kTickMs = 100;

class JobMachine {
 public:
  // `seed` feeds the random part of attempt ids: 64 fresh random bits in a daemon, anything fixed in a
  // simulation. `unix_time_ms` of claims is the driver's affair: records carry `start_unix_ms` plus the time
  // since JobStarted.
  JobMachine(const Limits& limits, uint64_t seed, int64_t start_unix_ms);
  ~JobMachine();

  // Takes one event; returns what to do, in order. Does not block. `now` never falls from call to call.
  std::vector<Action> OnEvent(const Event& event, Millis now);

  // What has begun is measured by them too; what is above a number of theirs is finished, nothing is added.
  // They are seen at the next event.
  void SetLimits(const Limits& limits);
  const Limits& limits() const;

  JobSnapshot Snapshot() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_JOB_MACHINE_H_
