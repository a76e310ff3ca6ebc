// What a job's logic shows of itself, for `status` and tests: plain values, copied out.

#ifndef KEEPSTEP_DAEMON_LOGIC_SNAPSHOT_H_
#define KEEPSTEP_DAEMON_LOGIC_SNAPSHOT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/logic/events.h"

namespace keepstep::daemon {

enum class SaveStage : uint8_t {
  kQueued,   // waits for room among the saves in flight
  kJournal,  // its journal entry is being made durable
  kArrive,   // some rank has not asked for this save yet, and the plan needs all of them
  kPlan,
  kCopy,     // some rank's source may not change yet
  kSeal,     // copied; some rank has neither sealed nor poisoned
  kPersist,  // sealed; some rank's blobs are not durable
  kPart,
  kCommit,
  kStop,   // failed; its I/O is being stopped
  kAbort,  // ABORT is being published, then its space reclaimed
  kOver,   // decided, or given up; nothing changes any more
};
const char* StageName(SaveStage stage);

struct SaveSnapshot {
  uint64_t number = 0;
  std::string attempt;
  int64_t step = 0;
  SaveStage stage = SaveStage::kQueued;
  std::vector<int32_t> waiting_for_ranks;  // whom the stage waits for
  Millis accepted_ms = 0, stage_since_ms = 0;
};

struct SessionSnapshot {
  SessionId session = 0;
  int32_t rank = 0;
  bool lost = false;  // its stream is gone, its process is not known to be
};

struct JobSnapshot {
  bool recovering = true;  // nobody is answered before what an earlier daemon left is settled
  bool claiming = false;
  bool draining = false;
  int64_t epoch = 0;  // 0: none yet
  int32_t world_size = 0;
  std::vector<SessionSnapshot> sessions;  // by rank
  std::vector<int32_t> missing_ranks;     // never joined this epoch, or dead
  std::vector<SaveSnapshot> saves;        // neither over nor reclaimed
  int64_t last_committed_step = -1;       // in this epoch, or the epoch's LATEST
  std::string last_committed_attempt;
  int64_t save_at = -1;
  RetentionPolicy retention;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_SNAPSHOT_H_
