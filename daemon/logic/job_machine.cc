#include "daemon/logic/job_machine.h"

#include <utility>
#include <variant>

#include "daemon/logic/collect_machine.h"
#include "daemon/logic/coordinator.h"
#include "daemon/logic/epoch_machine.h"
#include "daemon/logic/outbox.h"
#include "daemon/logic/reconcile_machine.h"
#include "daemon/logic/world.h"

namespace keepstep::daemon {

struct JobMachine::Parts {
  Parts(const Limits& limits_in, uint64_t seed, int64_t start_unix_ms)
      : limits(limits_in),
        epoch(limits, outbox, world, start_unix_ms),
        coordinator(limits, outbox, world, epoch, seed, start_unix_ms),
        collector(limits, outbox, world, epoch, coordinator, start_unix_ms),
        reconcile(limits, outbox, coordinator, start_unix_ms) {
    epoch.Bind(&coordinator, &collector);
    coordinator.Bind(&collector);
  }

  // Runs `what` on the save and the rank of `event`, if both exist.
  template <class E, class What>
  void WithRank(const E& event, What what) {
    SaveMachine* save = coordinator.Find(event.attempt);
    if (save != nullptr && event.rank >= 0 && event.rank < save->spec().world_size) what(*save);
  }
  template <class E, class What>
  void WithSave(const E& event, What what) {
    if (SaveMachine* save = coordinator.Find(event.attempt)) what(*save);
  }

  void On(const JobStarted& e) {
    epoch.OnStarted(e);
    std::vector<JournalEntry> undecided, collected;
    for (const JournalEntry& entry : e.journal) (entry.collected ? collected : undecided).push_back(entry);
    collector.OnStarted(std::move(collected));
    reconcile.Start(std::move(undecided), [this](const ScanScript::Outcome& scan) {
      epoch.Ready(scan);
      collector.OnReady();
    });
  }
  void On(const SessionOpened& e) { epoch.OnOpened(e); }
  void On(const SessionLost& e) { epoch.OnLost(e.session); }
  void On(const SessionDead& e) { epoch.OnDead(e.session, "TRAINER_DIED"); }
  void On(const SessionKept& e) { epoch.OnKept(e.session); }
  void On(const RescueRequested& e) { coordinator.OnRescueRequested(e); }
  void On(const Registered& e) {
    Session* session = world.Find(e.session);
    if (session == nullptr || e.generation < session->generation) return;
    session->generation = e.generation;
    session->fingerprint = e.fingerprint;
    coordinator.Pump();
  }
  void On(const SaveRequested& e) { coordinator.OnSaveRequested(e); }
  void On(const PlanMade& e) {
    WithSave(e, [&e](SaveMachine& save) { save.OnPlanMade(e.status); });
    coordinator.Pump();
  }
  void On(const GroupCopied& e) {
    WithRank(e, [&e](SaveMachine& save) { save.OnGroupCopied(e.rank, e.group); });
  }
  void On(const RankCopied& e) {
    WithRank(e, [&e](SaveMachine& save) { save.OnRankCopied(e.rank); });
  }
  void On(const RankFlushed& e) {
    WithRank(e, [&e](SaveMachine& save) { save.OnRankFlushed(e.rank); });
  }
  void On(const RankIoFailed& e) {
    WithRank(e, [&e](SaveMachine& save) { save.OnRankIoFailed(e.rank, e.stage, e.status); });
  }
  void On(const VerdictSeen& e) { coordinator.OnVerdict(e); }
  void On(const PartWritten& e) {
    WithSave(e, [&e](SaveMachine& save) { save.OnPartWritten(e.status, e.part); });
  }
  void On(const IoStopped& e) {
    WithSave(e, [](SaveMachine& save) { save.OnIoStopped(); });
  }
  void On(const SaveProgressed& e) {
    WithSave(e, [](SaveMachine& save) { save.OnProgress(); });
  }
  void On(const LoadRequested& e) { epoch.OnLoad(e); }
  void On(const CancelRequested& e) { coordinator.OnCancel(e); }
  void On(const CollectRequested& e) { collector.OnRequested(e); }
  void On(const DeletionCut&) { collector.OnDeletionCut(); }
  void On(const DrainRequested&) { coordinator.OnDrain(); }
  void On(const SaveWished&) { coordinator.OnSaveWished(); }
  void On(const StepsSeen& e) { coordinator.OnStepsSeen(e); }
  void On(const StoreDone& e) { outbox.OnStoreDone(e); }
  void On(const CatalogDone& e) { outbox.OnCatalogDone(e); }
  void On(const Tick&) {
    coordinator.OnTick();
    epoch.OnTick();
    collector.OnTick();
  }

  Limits limits;  // the machines refer to it
  Outbox outbox;
  World world;
  EpochMachine epoch;
  Coordinator coordinator;
  CollectMachine collector;
  ReconcileMachine reconcile;
};

JobMachine::JobMachine(const Limits& limits, uint64_t seed, int64_t start_unix_ms)
    : parts_(std::make_unique<Parts>(limits, seed, start_unix_ms)) {}

JobMachine::~JobMachine() = default;

std::vector<Action> JobMachine::OnEvent(const Event& event, Millis now) {
  parts_->outbox.Advance(now);
  std::visit([this](const auto& e) { parts_->On(e); }, event);
  parts_->epoch.AfterEvent();
  parts_->collector.AfterEvent();
  parts_->coordinator.Pump();
  parts_->coordinator.AfterEvent();
  return parts_->outbox.Take();
}

void JobMachine::SetLimits(const Limits& limits) { parts_->limits = limits; }

const Limits& JobMachine::limits() const { return parts_->limits; }

JobSnapshot JobMachine::Snapshot() const {
  JobSnapshot snapshot;
  parts_->coordinator.FillSnapshot(snapshot);
  parts_->epoch.FillSnapshot(snapshot);
  return snapshot;
}

const char* StageName(SaveStage stage) {
  switch (stage) {
    case SaveStage::kQueued: return "queue";
    case SaveStage::kJournal: return "journal";
    case SaveStage::kArrive: return "arrive";
    case SaveStage::kPlan: return "plan";
    case SaveStage::kCopy: return "copy";
    case SaveStage::kSeal: return "seal";
    case SaveStage::kPersist: return "persist";
    case SaveStage::kPart: return "part";
    case SaveStage::kCommit: return "commit";
    case SaveStage::kStop: return "stop";
    case SaveStage::kAbort: return "abort";
    case SaveStage::kOver: return "over";
  }
  return "";
}

}  // namespace keepstep::daemon
