// One attempt at a save, from its journal entry to its decision.
//
//   1. Journal entry durable.
//   2. Plan: at once when no registration changed since the last plan, else when every rank has arrived. A
//   plan
//      that finds no room (DISK_FULL, QUOTA) is made once more after a collection that freed some.
//   3. A rank's copy starts when it has arrived and the plan is made. A rank whose registration is not the
//      one planned fails the save (PLAN_CHANGED).
//   4. Every rank copied, sealed and flushed, and the epoch's PARENT durable → the part is written.
//   5. CommitMachine decides. COMMIT → catalog → told → journal entry erased.
//   Failure before 5: I/O stopped → ABORT published → blobs deleted → told → journal entry erased.
//
// Invariants: copied ≥ sealed for every rank; a part exists only if all are sealed; nothing is deleted before
// ABORT is durable; whatever the failure, the record on storage wins: COMMIT found while aborting commits. A
// save that ends undecided or uncertain keeps its journal entry: a restart or a claim settles it by what is
// durable.

#ifndef KEEPSTEP_DAEMON_LOGIC_SAVE_MACHINE_H_
#define KEEPSTEP_DAEMON_LOGIC_SAVE_MACHINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/logic/events.h"
#include "daemon/logic/limits.h"
#include "daemon/logic/outbox.h"
#include "daemon/logic/snapshot.h"
#include "daemon/logic/store_script.h"
#include "storage/commit.h"

namespace keepstep::daemon {

class SaveMachine;

// Whom a save tells, and asks. Calls come from within the machine's methods; they must not destroy it.
class SaveOwner {
 public:
  virtual ~SaveOwner() = default;

  // Fingerprint of each rank's registration as it is now; empty for a rank that has none.
  virtual std::vector<std::string> Fingerprints() = 0;
  // Whether the last plan was made for exactly these.
  virtual bool PlanCovers(const std::vector<std::string>& fingerprints) = 0;
  virtual void OnPlanned(const std::vector<std::string>& fingerprints) = 0;

  virtual void OnGroupCopied(const SaveMachine& save, int32_t rank, uint32_t group) = 0;
  virtual void OnRankState(const SaveMachine& save, int32_t rank, SaveState state) = 0;
  virtual void OnAllArrived(SaveMachine& save) = 0;
  // Deletes what the job need not keep; `then` runs, perhaps at once: whether that freed anything.
  virtual void MakeRoom(std::function<void(bool freed)> then) = 0;
  // The save will not commit from here on, unless it already has: nobody's source is needed any more.
  virtual void OnFailing(const SaveMachine& save) = 0;
  // Once: the outcome, which never changes.
  virtual void OnDecided(const SaveMachine& save, const Verdict& verdict) = 0;
};

class SaveMachine {
 public:
  struct Spec {
    uint64_t number = 0;
    int64_t step = 0, epoch = 0;
    std::string attempt;
    int32_t world_size = 0;
    bool rescue = false;  // of dead ranks: nobody can seal it later, so a claim waits for it as for a sealed one
  };

  // `limits`, `outbox` and `owner` outlive the machine. `start_unix_ms`: wall time at time 0 of the events.
  SaveMachine(const Limits& limits, Outbox& outbox, SaveOwner& owner, Spec spec, int64_t start_unix_ms);

  void Start();

  void OnArrived(int32_t rank, SessionId session, const std::string& fingerprint);
  void OnSessionReplaced(int32_t rank, SessionId session);  // resumed: same rank, copied before
  void OnRegistrationsChanged() { Plan(); }
  void OnPlanMade(const absl::Status& status);
  void OnGroupCopied(int32_t rank, uint32_t group);
  void OnRankCopied(int32_t rank);
  void OnRankFlushed(int32_t rank);
  void OnRankIoFailed(int32_t rank, const std::string& stage, const absl::Status& status);
  void OnVerdict(int32_t rank, bool sealed);
  void OnRankDead(int32_t rank);
  void OnParentKnown(const absl::Status& status);  // of the epoch's PARENT record
  void OnPartWritten(const absl::Status& status, const storage::PartSummary& part);
  void OnIoStopped();
  void OnProgress() { progress_at_ = outbox_.now(); }
  void OnTick();

  // Gives the save up, unless its part is being written or it is decided; returns whether it does.
  bool Fail(Failure cause, SaveState as = SaveState::kFailed);

  const Spec& spec() const { return spec_; }
  SaveStage stage() const { return stage_; }
  bool arrived(int32_t rank) const { return ranks_[rank].arrived; }
  bool copied(int32_t rank) const { return ranks_[rank].copied; }
  SaveState rank_state(int32_t rank) const;
  bool sealed() const;   // by every rank, or a rescue
  bool started() const;  // some rank's copy has been started
  bool failing() const { return cause_.code != absl::StatusCode::kOk; }
  bool decided() const { return decided_; }
  bool uncertain() const { return uncertain_; }  // its record on storage is not to be trusted
  bool over() const { return stage_ == SaveStage::kOver; }
  SaveSnapshot Snapshot() const;

 private:
  struct Rank {
    bool arrived = false, started = false, copied = false, sealed = false, flushed = false;
    SessionId session = 0;
    std::string fingerprint;  // when it arrived
  };

  bool Waiting() const { return stage_ < SaveStage::kPart; }  // for ranks; nothing of it can be decided yet
  bool AllArrived() const;
  void Enter(SaveStage stage);
  void UpdateStage();
  void OnJournal(const absl::Status& status);
  void Plan();
  void StartRanks();
  void CheckRank(int32_t rank);
  void WritePartIfReady();
  void RunCommit(const storage::PartSummary& part);
  void RunAbort();
  void OnCommitOutcome(const storage::CommitOutcome& outcome);
  void OnAbortOutcome(const storage::CommitOutcome& outcome);
  void Committed();
  void Decide(SaveState state, Failure failure);
  void EndUncertain(const storage::CommitOutcome& outcome);
  void SyncAndEnd();
  void EraseAndEnd();
  v1::Decision AbortRecord() const;

  const Limits& limits_;
  Outbox& outbox_;
  SaveOwner& owner_;
  const Spec spec_;
  const int64_t start_unix_ms_;
  const Millis accepted_at_;
  const std::shared_ptr<const void> life_ = std::make_shared<char>();

  std::vector<Rank> ranks_;
  SaveStage stage_ = SaveStage::kQueued;
  Millis stage_since_ = 0, progress_at_ = 0, failed_at_ = 0;
  bool plan_asked_ = false, room_asked_ = false, planned_ = false, parent_known_ = false, part_asked_ = false;
  bool decided_ = false, uncertain_ = false;
  bool no_room_ = false;  // for the ABORT
  std::vector<std::string> plan_fingerprints_;
  Failure cause_;
  SaveState cause_state_ = SaveState::kFailed;
  Backoff backoff_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_SAVE_MACHINE_H_
