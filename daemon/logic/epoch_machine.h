// Who the job is now: one world at a time, and one answer to "latest" for all of it.
//
// Joining: a rank the roster lacks, or the same nonce again → roster durable → AnswerOpen.
// Resuming: in the current epoch, with the roster's nonce; else ABORTED.
// Claiming: a new nonce for a rank of the roster, another world size, all ranks loading again after a save.
//   1. No new saves; those in flight are finished within limits, a deletion under way is finished. So is a
//   rescue, and while every rank is dead and kept, whoever keeps them is waited for to say whether there is one.
//   2. Publish CLAIM of the next epoch.
//   3. Settle all earlier attempts, publish LATEST (inherit_script.h).
//   4. Roster durable.
//   5. Sessions that have neither loaded nor saved move, or all of them when they load again; others are
//      closed with ABORTED.
//   6. Only now is anybody told.
//
// Invariant: between CLAIM on storage and the move, no save of the old epoch starts.

#ifndef KEEPSTEP_DAEMON_LOGIC_EPOCH_MACHINE_H_
#define KEEPSTEP_DAEMON_LOGIC_EPOCH_MACHINE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daemon/logic/coordinator.h"
#include "daemon/logic/epoch_scripts.h"
#include "daemon/logic/events.h"
#include "daemon/logic/inherit_script.h"
#include "daemon/logic/limits.h"
#include "daemon/logic/outbox.h"
#include "daemon/logic/snapshot.h"
#include "daemon/logic/store_script.h"
#include "daemon/logic/world.h"

namespace keepstep::daemon {

class EpochMachine : public EpochGate {
 public:
  // All outlive the machine.
  EpochMachine(const Limits& limits, Outbox& outbox, World& world, int64_t start_unix_ms);

  // Both outlive the machine; to be called before any event.
  void Bind(Coordinator* coordinator, SpaceKeeper* keeper) {
    coordinator_ = coordinator;
    keeper_ = keeper;
  }

  // What the catalog remembers; opens wait until Ready.
  void OnStarted(const JobStarted& started);
  // What storage says, once the journal is settled.
  void Ready(const ScanScript::Outcome& scan);

  void OnOpened(const SessionOpened& opened);
  void OnLost(SessionId session);
  void OnDead(SessionId session, const char* reason);
  void OnKept(SessionId session);
  void OnLoad(const LoadRequested& request);
  void OnTick();
  void AfterEvent();  // goes on with whatever can go on

  bool SavesMayStart() const override { return ready_ && !claim_ && world_.Complete() && !world_.AnyKept(); }
  bool RescueMayStart() const override { return ready_ && world_.AllKept() && !(claim_ && claim_->running); }
  void EnsureParent(std::function<void(const absl::Status&)> then) override;

  // What a rank of this epoch may be given to load from now on, or has been given while others may still ask:
  // attempts with the reason to keep them, and steps whatever their attempts.
  struct InUse {
    std::map<std::string, std::string> attempts;
    std::set<int64_t> steps;
  };
  static constexpr char kBeingLoaded[] = "being loaded";
  InUse StillToLoad() const;
  bool MayCollect() const { return ready_ && !claim_; }
  // Claims an epoch for nobody: its one rank never comes. Nothing happens while another claim is under way.
  void TakeOver(const Nonce& nonce);

  void FillSnapshot(JobSnapshot& snapshot) const;

 private:
  struct Claim {
    std::optional<SessionOpened> opener;  // absent: nobody waits for it, or any more
    bool same_world = false;              // all ranks load again
    RosterEntry claimer;
    int32_t world_size = 0;
    RetentionPolicy retention;
    Millis since = 0;
    bool running = false;  // past step 1
    int64_t epoch = 0;     // once published
    LoadedStep latest;
    std::optional<Failure> no_room;  // storage has none for its next step: nobody waits for that
  };
  struct Load {
    LoadRequested request;
    Millis since = 0;
    bool finding = false;
  };
  struct Opening {
    SessionOpened opened;
    Millis since = 0;
  };

  // Joining and resuming (epoch_join.cc).
  void ProcessOpens();
  void Open(const SessionOpened& opened);
  std::optional<Failure> CheckOpen(const SessionOpened& opened) const;
  bool NeedsClaim(const SessionOpened& opened) const;
  void Join(const SessionOpened& opened);
  void FinishJoin(const SessionOpened& opened);
  void RefuseOpen(SessionId session, Failure failure);
  std::vector<RosterEntry> Roster() const;

  // Claiming (epoch_claim.cc).
  void StartClaim(std::optional<SessionOpened> opener);
  void ContinueClaim();
  void PublishClaim();
  void Inherit();
  void PutClaimRoster();
  void EnterEpoch();
  void RetryClaim(const absl::Status& status, void (EpochMachine::*step)());
  void RefuseWaiting(const Failure& failure);

  // Loading (epoch_load.cc).
  void ProcessLoads();
  void LoadAgain();
  void FindStep(Load& load);
  void AnswerLoadWith(const LoadRequested& request, LoadedStep step);
  void RefuseLoad(const LoadRequested& request, Failure failure);
  void RefuseLoadsOf(SessionId session, const Failure& failure);
  void ExpireLoads();
  void PublishParent();

  const Limits& limits_;
  Outbox& outbox_;
  World& world_;
  Coordinator* coordinator_ = nullptr;
  SpaceKeeper* keeper_ = nullptr;
  const int64_t start_unix_ms_;
  const std::shared_ptr<const void> life_ = std::make_shared<char>();

  bool ready_ = false;
  bool journal_lost_ = false;
  // Every rank of this epoch was there at once, so some may have been told LATEST: it is told to the others
  // even when those have left. Before that, a rank that dies and starts again moves its peers along, since
  // none has loaded.
  bool assembled_ = false;
  std::optional<LoadedStep> latest_;  // of this epoch; absent: nobody was told, so nobody may resume
  std::deque<Opening> opens_;
  bool joining_ = false;  // a roster is being made durable
  std::optional<Claim> claim_;
  Backoff claim_backoff_;
  std::deque<Load> loads_;

  enum class Parent : uint8_t { kUnknown, kPublishing, kDone } parent_ = Parent::kUnknown;
  std::vector<std::function<void(const absl::Status&)>> parent_waiters_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_EPOCH_MACHINE_H_
