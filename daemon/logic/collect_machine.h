// Deletes what a job's retention policy no longer keeps, finishes deletions that a crash cut off, and takes
// off storage what aborted attempts left.
//
//   1. Survey (survey_script.h). Another daemon's epoch on storage → nothing is deleted: only the job's
//   current
//      coordinator collects.
//   2. PlanRetention. A dry run ends here.
//   3. For each that goes, oldest first:
//      a. A claim is waiting → stop. It may be loaded after all → keep.
//      b. If ranks may still ask what became of it: COMMITTED is journaled, durable.
//      c. Reserve it: nobody of this daemon reads it, and from now on nobody can. Refused → keep.
//      d. DeletionScript: DELETING, pins, contents (storage/delete.h). Pinned meanwhile → keep.
//      e. The catalog's row goes; the reservation ends.
//
// One collection at a time; it runs after every commit, once at start, and on request. A claim waits for the
// deletion under way and stops the rest; in the new epoch what was begun is finished. A collection that
// storage cuts off is begun again after a while.

#ifndef KEEPSTEP_DAEMON_LOGIC_COLLECT_MACHINE_H_
#define KEEPSTEP_DAEMON_LOGIC_COLLECT_MACHINE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/logic/coordinator.h"
#include "daemon/logic/epoch_machine.h"
#include "daemon/logic/events.h"
#include "daemon/logic/limits.h"
#include "daemon/logic/outbox.h"
#include "daemon/logic/retention.h"
#include "daemon/logic/store_script.h"
#include "daemon/logic/survey_script.h"
#include "daemon/logic/world.h"
#include "storage/delete.h"

namespace keepstep::daemon {

class CollectMachine : public SpaceKeeper {
 public:
  // All outlive the machine.
  CollectMachine(const Limits& limits, Outbox& outbox, World& world, EpochMachine& epoch,
                 Coordinator& coordinator, int64_t start_unix_ms);

  // Saves that were committed and collected in an earlier life of the daemon.
  void OnStarted(std::vector<JournalEntry> collected) { left_ = std::move(collected); }
  void OnReady();  // before anybody is answered

  void OnRequested(const CollectRequested& request);
  void OnDeletionCut() { TryLater(/*tidy=*/true, /*no_room=*/false); }
  void OnTick();
  void AfterEvent();  // starts what may start

  void OnCommitted() override { wanted_ = wanted_ || !world_.retention.none(); }
  void MakeRoom(std::function<void(bool freed)> then) override;
  bool Idle() const override { return !run_.has_value(); }
  void OnEpochChanged() override;

 private:
  struct Request {
    CollectRequested request;
    Millis since = 0;
  };
  struct Run {
    std::optional<uint64_t> ticket;  // absent: of the machine's own accord
    RetentionPolicy policy;
    bool dry_run = false;
    std::vector<SurveyScript::Litter> litter;
    std::vector<RetentionDecision> plan;
    size_t next = 0;
    int64_t freed_bytes = 0;
  };

  void Start(Run run);
  void OnSurveyed(SurveyScript::Outcome survey);
  void Next();
  bool StillInUse(RetentionDecision& decision) const;
  void Remember(const RetentionDecision& decision, std::function<void(const absl::Status&)> then);
  void Reserve();
  void Delete();
  void OnDeleted(const storage::DeletionScript::Outcome& outcome);
  void Finish(Failure failure);
  void TryLater(bool tidy, bool no_room);
  void Refuse(const CollectRequested& request, Failure failure);

  const Limits& limits_;
  Outbox& outbox_;
  World& world_;
  EpochMachine& epoch_;
  Coordinator& coordinator_;
  const int64_t start_unix_ms_;
  const std::shared_ptr<const void> life_ = std::make_shared<char>();

  std::vector<JournalEntry> left_;
  std::map<uint64_t, std::string> remembered_;  // collected saves of this epoch that ranks may ask for
  std::map<std::string, SurveyScript::Decided> known_;  // decisions that were read
  bool wanted_ = false;                         // a collection by the policy
  bool tidy_ = false;                           // of what an earlier one, cut off, left
  std::deque<Request> requests_;
  std::vector<std::function<void(bool)>> waiting_for_room_;
  std::optional<Run> run_;
  Backoff backoff_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_COLLECT_MACHINE_H_
