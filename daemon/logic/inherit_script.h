// What a new epoch inherits: settles every attempt made before it, then publishes the one answer to "latest".
//
//   1. List every attempt.
//   2. Those of earlier epochs without a decision: CommitMachine kSettle.
//   3. Newest commit of the newest epoch, else what that epoch's PARENT names, else the epoch before.
//   4. Publish epochs/<E>/LATEST.
//
// Nobody is told anything of the new epoch before 4 is durable. An attempt that cannot be settled stops the
// script: the answer could differ once it is.

#ifndef KEEPSTEP_DAEMON_LOGIC_INHERIT_SCRIPT_H_
#define KEEPSTEP_DAEMON_LOGIC_INHERIT_SCRIPT_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "daemon/logic/epoch_scripts.h"
#include "daemon/logic/events.h"
#include "daemon/logic/world.h"
#include "storage/attempt.h"
#include "storage/commit.h"

namespace keepstep::daemon {

class InheritScript {
 public:
  struct Spec {
    int64_t epoch = 0;
    std::set<std::string> excluded;  // attempts that this daemon is deciding, or must not trust
    bool everything = false;         // the journal was lost: finish reclaiming decided attempts too
    int64_t unix_ms = 0;             // of the ABORTs
  };
  struct Outcome {
    absl::Status status;
    LoadedStep latest;
    std::vector<JournalEntry> committed, aborted;  // settled here
  };

  explicit InheritScript(Spec spec) : spec_(std::move(spec)) {}
  std::variant<storage::StoreOp, Outcome> Next(const storage::StoreResult* previous);

 private:
  enum class State : uint8_t {
    kStart,
    kSteps,
    kStep,
    kAttempt,
    kSettling,
    kDecision,
    kParent,
    kParentDecision,
    kPublishing
  };
  using Step = std::variant<storage::StoreOp, Outcome>;
  struct Attempt {
    storage::AttemptId id;
    int64_t step = 0;
    bool decided = false, deleting = false,
         litter = false;  // litter: no part, yet something besides its decision
    std::string name() const { return storage::AttemptName(id); }
  };

  Step Fail(absl::Status status) { return Outcome{.status = std::move(status)}; }
  Step ListNextStep();
  Step ListNextAttempt();
  Step SettleNext();
  Step OnSettled(const storage::CommitOutcome& outcome);
  Step TryNextCandidate();
  Step OnDecision(const storage::StoreResult& result);
  Step OnParent(const storage::StoreResult& result);
  Step Publish(LoadedStep latest);

  Spec spec_;
  Outcome outcome_;
  State state_ = State::kStart;
  std::vector<int64_t> steps_;  // to list, last first
  std::vector<Attempt> attempts_;
  size_t next_ = 0;
  std::optional<storage::CommitMachine> settle_;
  int64_t asked_epoch_ = 0;  // whose commits, then whose PARENT are being looked at
  LoadedStep parent_;
  std::optional<PublishOnce> publish_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_INHERIT_SCRIPT_H_
