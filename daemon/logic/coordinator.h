// Which save numbers run, wait, are skipped or refused; what every rank is told about them.
//
// A save number is the same save on every rank. What becomes of it is decided once, by its first arrival or
// later by its SaveMachine, and every rank gets that one verdict. The first arrival also freezes the list of
// verdicts on earlier saves that this number delivers.
//
// Invariants: at most max_saves_in_flight saves are neither queued nor decided; a verdict never changes; each
// session is released exactly once for each number it asked for, never for number n before all below n
// (release_ledger.h).

#ifndef KEEPSTEP_DAEMON_LOGIC_COORDINATOR_H_
#define KEEPSTEP_DAEMON_LOGIC_COORDINATOR_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "daemon/logic/events.h"
#include "daemon/logic/limits.h"
#include "daemon/logic/outbox.h"
#include "daemon/logic/save_at.h"
#include "daemon/logic/save_machine.h"
#include "daemon/logic/snapshot.h"
#include "daemon/logic/world.h"

namespace keepstep::daemon {

// What the coordinator needs of the epoch.
class EpochGate {
 public:
  virtual ~EpochGate() = default;
  // Recovered, not claiming, roster complete and alive.
  virtual bool SavesMayStart() const = 0;
  // Every session is kept, and no claim has got further than waiting for saves.
  virtual bool RescueMayStart() const = 0;
  // Publishes PARENT for the epoch's first save; `then` runs, perhaps at once, when it is durable or cannot
  // be.
  virtual void EnsureParent(std::function<void(const absl::Status&)> then) = 0;
};

// What saves and claims need of the collector (collect_machine.h).
class SpaceKeeper {
 public:
  virtual ~SpaceKeeper() = default;
  virtual void OnCommitted() = 0;
  // Deletes what the policy no longer keeps; `then` runs, perhaps at once: whether that freed anything.
  virtual void MakeRoom(std::function<void(bool freed)> then) = 0;
  virtual bool Idle() const = 0;  // no deletion is under way
  virtual void OnEpochChanged() = 0;
};

class Coordinator : private SaveOwner {
 public:
  // All outlive the coordinator.
  Coordinator(const Limits& limits, Outbox& outbox, World& world, EpochGate& gate, uint64_t seed,
              int64_t start_unix_ms);
  ~Coordinator() override;
  // `keeper` outlives the coordinator; to be called before any event.
  void Bind(SpaceKeeper* keeper) { keeper_ = keeper; }

  void OnSaveRequested(const SaveRequested& request);
  void OnRescueRequested(const RescueRequested& request);  // coordinator_rescue.cc
  void OnVerdict(const VerdictSeen& seen);
  void OnCancel(const CancelRequested& request);
  void OnDrain();
  void OnSaveWished();
  void OnStepsSeen(const StepsSeen& seen);
  void OnTick();
  void AfterEvent();                              // starts what there is room for, forgets what is over
  SaveMachine* Find(const std::string& attempt);  // null: over, or never was

  // The world changed: ranks joined, left, registered.
  void Pump();
  void OnRankDead(int32_t rank);
  // `old_session` 0: the daemon was restarted. The rank says it issued saves up to `saves_issued`; of those
  // that it never managed to ask for, or whose copy its new page no longer gates, nothing can come.
  void OnResumed(SessionId old_session, Session& session, uint64_t saves_issued);
  // What became of the newest of the first `saves_issued` saves of this world.
  std::vector<Verdict> Unsettled(const Session& session, uint64_t saves_issued) const;

  // What storage and journal say about this epoch's attempts, after a restart.
  void Remember(const Verdict& verdict);
  // Its record may not outlive a power loss, or could not be read: never COMMITTED in this daemon's life.
  void Distrust(const std::string& attempt) { untrusted_.insert(attempt); }

  // A claim: saves that cannot finish are given up; then, in the new epoch, everything starts afresh.
  // `same_world`: the same processes go on, with the same save numbers.
  void FailSaves(bool sealed_too, const Failure& cause);
  bool Quiet() const;  // no save is queued or in flight
  void OnEpochChanged(bool same_world);
  void RefuseHeld(SessionId session, const Failure& failure);  // its arrivals that nobody has judged yet

  std::set<std::string> LiveAttempts() const;  // this machine decides these, or may not trust them
  const std::set<std::string>& Untrusted() const { return untrusted_; }
  // A save of this epoch's ranks has committed in this daemon's life: every one of them has saved.
  bool HasCommits() const { return !committed_steps_.empty(); }  // this epoch, by whomever
  bool RanksHaveCommitted() const { return ranks_have_committed_; }
  void FillSnapshot(JobSnapshot& snapshot) const;

 private:
  struct Record {
    int64_t step = 0;
    bool asked = false;  // some rank asked for it: `earlier` is frozen
    std::vector<Verdict> earlier;
    std::optional<Verdict> final;
    std::shared_ptr<SaveMachine> save;  // null: refused
    std::set<SessionId> asked_by;
    std::vector<uint64_t> cancel_tickets;
  };
  struct Held {
    SaveRequested request;
    Millis since = 0;
  };

  std::vector<std::string> Fingerprints() override;
  bool PlanCovers(const std::vector<std::string>& fingerprints) override { return fingerprints == planned_; }
  void OnPlanned(const std::vector<std::string>& fingerprints) override { planned_ = fingerprints; }
  void OnGroupCopied(const SaveMachine& save, int32_t rank, uint32_t group) override;
  void OnRankState(const SaveMachine& save, int32_t rank, SaveState state) override;
  void OnAllArrived(SaveMachine& save) override;
  void MakeRoom(std::function<void(bool)> then) override { keeper_->MakeRoom(std::move(then)); }
  void OnFailing(const SaveMachine& save) override;
  void OnDecided(const SaveMachine& save, const Verdict& verdict) override;

  void Arrive(Session& session, const SaveRequested& request);
  Record& RecordOf(const SaveRequested& request, const Session& session);
  std::optional<Failure> Refusal(const SaveRequested& request, const Session& session);
  std::optional<Failure> RescueRefusal(int64_t step) const;
  bool Exists(int64_t step) const;  // committed, or being saved, in this epoch
  void Admit(uint64_t number, Record& record, BusyPolicy policy);
  bool Supersede(uint64_t by);
  void StartQueued();
  int InFlight() const;
  void CheckSkipped(const Session& session);  // numbers that the session went past
  void Refuse(Session& session, const SaveRequested& request, Failure failure);
  void Settle(uint64_t number, Record& record, Verdict verdict);
  void Answer(const Session& session, uint64_t number, const Record& record);
  Verdict StatusFor(const Session& session, uint64_t number, const Record& record) const;
  void ReleaseAll(Session& session, uint64_t number);
  void FinishDrain();
  void Forget();
  std::string NewAttempt(uint64_t number);

  const Limits& limits_;
  Outbox& outbox_;
  World& world_;
  EpochGate& gate_;
  SpaceKeeper* keeper_ = nullptr;
  uint64_t random_;
  const int64_t start_unix_ms_;

  std::map<uint64_t, Record> records_;
  std::list<std::shared_ptr<SaveMachine>>
      saves_;  // not over, of this and earlier epochs; in order of admission
  std::deque<Held> held_;
  std::vector<Verdict> undelivered_;   // decided, not in any record's `earlier` yet
  std::set<int64_t> committed_steps_;  // of this epoch
  std::set<std::string> untrusted_;    // attempts that ended uncertain
  int64_t last_step_ = -1;
  std::string last_attempt_;
  uint64_t lost_up_to_ = 0;  // numbers up to here without a record were lost by a restart
  std::vector<std::string> planned_;
  SaveAt save_at_;
  bool ranks_have_committed_ = false;
  bool draining_ = false, drained_ = false;
  Millis drain_since_ = 0;
  bool starting_ = false;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_COORDINATOR_H_
