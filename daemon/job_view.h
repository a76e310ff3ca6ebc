// What a job shows of itself to status, why and the page: plain values, copied out of its strand.
//
// Bounded whatever the world's size: ranks are shown only where somebody waits for them.

#ifndef KEEPSTEP_DAEMON_JOB_VIEW_H_
#define KEEPSTEP_DAEMON_JOB_VIEW_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "daemon/logic/events.h"
#include "daemon/logic/limits.h"
#include "daemon/logic/snapshot.h"

namespace keepstep::daemon {

inline constexpr size_t kOutcomesKept = 64;  // newest, of one job
inline constexpr size_t kRanksShown = 8;     // of those that one save waits for, or that are missing

struct ShareProgress {  // written ≤ copied ≤ total
  int64_t bytes_total = 0, bytes_copied = 0, bytes_written = 0;
};

// A rank as this daemon last knew it.
struct RankView {
  enum class State : uint8_t { kNever, kOpen, kLost, kGone };  // lost: its stream is, its process may not be
  State state = State::kNever;
  pid_t pid = 0;
  double seconds = 0;  // since its session opened, or ended
};

// What became of the memory of trainers that died together.
struct RescueView {
  int64_t unix_ms = 0;
  int64_t step = -1;  // that was saved; -1: none
  std::string why;    // … because: "rank 2 was at step 41, the others at 42"
};

struct SaveInFlight {
  SaveSnapshot logic;
  ShareProgress progress;
  double seconds = 0;                       // since it was accepted
  double stage_seconds = 0;                 // in its stage
  double idle_seconds = 0;                  // since a byte moved or the stage changed
  std::map<int32_t, ShareProgress> waited;  // of the first kRanksShown ranks that it waits for
};

// What became of a save.
struct SaveOutcome {
  int64_t step = 0;
  std::string attempt;  // empty: refused before it had one
  SaveState state = SaveState::kNone;
  Failure failure;
  int64_t unix_ms = 0;
  int64_t bytes = 0;
  double seconds = 0;         // from acceptance to the outcome; 0: unknown
  double copied_seconds = 0;  // from acceptance to the last rank's copy: how long updates may have waited
};

struct JobView {
  JobSnapshot logic;
  Limits limits;  // in effect
  std::vector<SaveInFlight> saves;
  std::vector<SaveOutcome> outcomes;  // oldest first, at most kOutcomesKept
  std::map<int32_t, RankView> ranks;  // those that a save waits for, the first missing ones, the lost ones
  int pulling = 0, windowed = 0;      // sessions by transfer
  std::optional<RescueView> rescue;   // the newest of this daemon's life
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_JOB_VIEW_H_
