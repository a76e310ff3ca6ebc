// What is wrong with a job, in one place: the status page, alerts, the log, `status` and `why` say what this
// says.
//
// Pure: facts in, sentences out. A problem has one cause, named by rank, host, stage and error as far as they
// are known, and the commands to try next. A save that has not moved for kStuckSeconds is stuck; a failed
// save is a problem until a later one commits.

#ifndef KEEPSTEP_DAEMON_WHY_H_
#define KEEPSTEP_DAEMON_WHY_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "daemon/job_view.h"

namespace keepstep::daemon {

inline constexpr double kStuckSeconds = 10;

struct Problem {
  enum class Severity : uint8_t { kNote, kWarning, kError };
  std::string job;
  int64_t step = -1;  // -1: the job itself
  Severity severity = Severity::kNote;
  std::string kind;                  // stable, for alerts: "stuck", "save failed", "rank missing", …
  std::string sentence;              // what is the matter, and what it means for the training
  std::vector<std::string> details;  // the cause, and what happens by itself
  std::vector<std::string> next;     // commands
};

struct JobFacts {
  std::string job;  // label
  std::string directory;
  bool detached = false;  // the daemon waits for somebody to hand the directory over; nothing below is known
  JobView view;
  std::string host;                        // where its ranks run
  std::map<int32_t, char> process_states;  // of ranks in the view that are open: as in /proc/PID/stat
  int64_t last_step = -1;                  // newest committed one; -1: none
  int64_t last_commit_unix_ms = 0;
  std::string storage_error;                // why that could not be read; empty: it was
  int64_t free_bytes = 0, total_bytes = 0;  // of its file system; total 0: unknown
  int64_t now_unix_ms = 0;
};

// Worst first; of equals, the oldest step first. Empty: nothing is wrong.
std::vector<Problem> Explain(const JobFacts& facts);

// What is the matter with one step, or what has become of it. Absent: nothing is known of it here.
std::optional<Problem> ExplainStep(const JobFacts& facts, int64_t step);

// One word or one sentence for a table: "ok", or the worst problem's.
std::string HealthOf(const std::vector<Problem>& problems);

bool IsStuck(const SaveInFlight& save);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_WHY_H_
