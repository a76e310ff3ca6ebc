// What a job's directory holds, as retention needs to know it; a pure store script (store_script.h).
//
//   1. List the epochs, and read the claims of those beyond ours: a directory without one is a claim that failed.
//      List every step, its pins, and every attempt.
//   2. Read the decisions that are not known yet.
//   3. Which commit "latest" names: the newest of the newest epoch, else what that epoch's PARENT names, else
//      the epoch before. Commits that are being deleted or of uncertain durability answer nothing.
//
// Records that are damaged, or of a later version, are left alone: they are neither kept nor deleted here.

#ifndef KEEPSTEP_DAEMON_LOGIC_SURVEY_SCRIPT_H_
#define KEEPSTEP_DAEMON_LOGIC_SURVEY_SCRIPT_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "daemon/logic/events.h"
#include "daemon/logic/retention.h"
#include "storage/attempt.h"
#include "storage/store_op.h"

namespace keepstep::daemon {

class SurveyScript {
 public:
  enum class Decided : uint8_t { kAbort, kCommit, kRescue };  // kRescue: a COMMIT for dead trainers
  struct Spec {
    int64_t epoch = 0;                  // ours, which is claimed
    std::set<std::string> live;         // attempts that are being decided: not looked at
    std::set<std::string> untrusted;    // whose COMMIT may not outlive a power loss
    std::map<std::string, Decided> known;  // decisions read before, by attempt; they never change
  };
  struct Litter {
    int64_t step = 0;
    storage::AttemptId attempt;
    bool empty = false;  // a directory without anything; else an aborted attempt that still holds something
  };
  struct Outcome {
    absl::Status status;
    int64_t epoch = 0;                      // the newest that is claimed; 0: none
    std::vector<StoredCommit> commits;      // in the order of epochs, then steps, then attempts
    std::vector<Litter> litter;             // what is no checkpoint and takes space or names
    std::string last_good;                     // attempt; empty: none
    std::map<std::string, Decided> decisions;  // those seen, for the next survey
  };

  explicit SurveyScript(Spec spec) : spec_(std::move(spec)) {}
  std::variant<storage::StoreOp, Outcome> Next(const storage::StoreResult* previous);

 private:
  enum class State : uint8_t { kStart, kEpochs, kClaim, kSteps, kStep, kPins, kAttempt, kDecision, kParent };
  using Step = std::variant<storage::StoreOp, Outcome>;
  struct Attempt {
    storage::AttemptId id;
    int64_t step = 0, bytes = 0;
    bool decided = false, deleting = false;
    size_t entries = 0;
  };

  Step ReadNextClaim();
  Step ListSteps();
  Step ListNextStep();
  Step ListNextAttempt();
  Step ReadNextDecision();
  Step FindLatest();
  void Classify(const Attempt& attempt, Decided decided);

  const Spec spec_;
  Outcome outcome_;
  State state_ = State::kStart;
  std::vector<int64_t> epochs_;  // ascending
  std::vector<int64_t> steps_;   // to list, last first
  std::map<int64_t, std::vector<std::string>> pins_;
  std::vector<Attempt> attempts_;
  size_t next_ = 0;
  int64_t asked_epoch_ = 0;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_SURVEY_SCRIPT_H_
