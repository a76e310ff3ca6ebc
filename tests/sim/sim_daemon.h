// One daemon: a JobMachine, pipelines and a catalog that are as slow, faulty and mortal as the real ones.
//
// Copies read the trainer's content at the moment of the copy, so what the gate lets through early is torn.
// Catalog rows survive from the moment they are acknowledged; those on their way when the daemon dies may or
// may not.

#ifndef KEEPSTEP_TESTS_SIM_SIM_DAEMON_H_
#define KEEPSTEP_TESTS_SIM_SIM_DAEMON_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daemon/logic/events.h"
#include "daemon/logic/job_machine.h"
#include "daemon/rescue_steps.h"
#include "proto/flight_reader.h"
#include "tests/sim/checker.h"
#include "tests/sim/clock.h"
#include "tests/sim/mutation.h"
#include "tests/sim/random.h"
#include "tests/sim/sim_store.h"
#include "tests/sim/trace.h"

namespace keepstep::sim {

// What a daemon sees and reaches of a trainer.
class TrainerSide {
 public:
  virtual ~TrainerSide() = default;
  // The content of a group of the trainer behind the session; false if that process is gone and its memory not `kept`.
  virtual bool CopyGroup(daemon::SessionId session, int32_t rank, int group, bool kept, std::string* content) = 0;
  // Its flight record, also once it is dead.
  virtual proto::FlightRecord Record(daemon::SessionId session) = 0;
  // Messages arrive in order; none after the daemon died.
  virtual void Deliver(daemon::SessionId session, const daemon::Action& action) = 0;
  // Whether the trainer's own word on save `number` is SEALED.
  virtual bool Sealed(daemon::SessionId session, uint64_t number) = 0;
};

class SimDaemon {
 public:
  struct Parts {  // all outlive the daemon
    Random& random;
    Clock& clock;
    SimStore& store;
    Checker& checker;
    TrainerSide& trainers;
    Trace& trace;
  };

  // `rescues`: trainers that die are kept, and saved if they were whole at one step.
  SimDaemon(Parts parts, Mutation mutation) : p_(parts), mutation_(mutation) {}
  void set_rescues(bool rescues) { rescues_on_ = rescues; }

  bool up() const { return machine_ != nullptr; }
  uint64_t life() const { return life_; }  // counts starts
  void Start();
  void Kill();
  void set_faults(const FaultRates& faults) { faults_ = faults; }
  // An operator's reload: other limits, none above those of the start.
  void ChangeLimits();
  void set_slow_copies(bool slow) { slow_copies_ = slow; }  // some outlast the trainers' watchdog

  // Hands an event to the machine after a message's delay, unless the daemon dies before.
  void Send(daemon::Event event);
  // As late, and in the same order: the process of a session has died, or closed its client. (sim_rescue.cc)
  void Died(daemon::SessionId session);
  void Left(daemon::SessionId session);
  size_t kept() const { return kept_.size(); }  // sessions of dead processes
  daemon::JobSnapshot Snapshot() const { return machine_->Snapshot(); }
  // Somebody pins a step, as storage/delete.h says: the pin, then a look whether the checkpoint is still
  // there.
  void Pin(int64_t step, const std::string& id);
  // A reader beside the run: holds the attempt for a while, unless it is reserved for deletion.
  void Read(const std::string& attempt);
  int64_t decided() const { return decided_; }

 private:
  struct Share {  // of a rank
    daemon::StartRank start;
    std::string content, path;
  };
  struct Attempt {  // stays where it is for a life
    std::string name;
    int64_t step = 0;
    bool stopped = false;
    int running = 0;  // operations on its files
    std::map<int32_t, Share> shares;
  };
  struct Member {
    int32_t rank = 0;
    bool open = false;
    uint64_t generation = 0;
  };
  struct Kept {
    int64_t until = 0;
    bool memory = true;  // not let go
    proto::FlightWords words;  // as they were judged
  };
  struct Rescue {
    uint64_t number = 0;  // 0: being judged
    int64_t step = -1;
    std::string attempt;
  };
  struct Flight {  // an operation on its way
    storage::StoreOp op;
    std::function<void()> row;  // or a catalog change
  };

  template <class What>
  void Post(int64_t delay_ms, What what) {  // dropped when the daemon dies
    p_.clock.After(delay_ms, [this, life = life_, what = std::move(what)]() mutable {
      if (up() && life == life_) what();
    });
  }
  void Feed(const daemon::Event& event);
  void Tell(daemon::SessionId session, daemon::Action action);
  void Do(daemon::Action action);
  void RunStore(storage::StoreOp op, int64_t extra_ms, std::function<void(storage::StoreResult)> then);
  void Catalog(uint64_t op, std::function<void()> change);
  // Runs `perform`; if `op` marks a checkpoint for deletion the checker judges that, and sees whether it was
  // done.
  template <class Perform>
  void Judged(const storage::StoreOp& op, Perform perform) {
    const bool condemns = op.kind == storage::StoreOp::Kind::kPublish && op.path.ends_with("/DELETING");
    if (condemns) p_.checker.OnCondemn(op.path, loading_);
    perform();
    if (condemns) p_.checker.OnCondemned(op.path);
  }
  void OnDoStore(daemon::DoStore action);
  void OnLoadAnswered(daemon::AnswerLoad& answer);
  bool Hold(const std::string& attempt, int64_t for_ms);  // false: it is reserved
  void OnReserve(const daemon::ReserveAttempt& action);

  // Pipelines (sim_io.cc).
  Attempt& AttemptOf(const std::string& name);
  void CopyNext(Attempt& attempt, int32_t rank, int group);
  void WriteBlob(Attempt& attempt, int32_t rank);
  void FlushBlob(Attempt& attempt, int32_t rank);
  void WritePart(Attempt& attempt);
  void StopIo(Attempt& attempt);
  void Finished(Attempt& attempt);  // an operation of it
  std::string BlobPath(const Attempt& attempt, int32_t rank) const;

  // Crash flush, as daemon/job_rescue.cc has it (sim_rescue.cc).
  void NoteMember(const daemon::Event& event);
  void OnOpened(const daemon::AnswerOpen& answer);
  void OnClosed(daemon::SessionId session);
  void Bury(daemon::SessionId session);
  bool Keep(daemon::SessionId session);
  void JudgeIfAllKept();
  struct RankJudged {
    daemon::SessionId session = 0;
    daemon::RankStep at;
    proto::FlightWords words;
  };
  void JudgeNext(std::vector<RankJudged> ranks, size_t next);
  void OnJudged(const std::vector<RankJudged>& ranks);
  void OnRescueStarted(const daemon::RescueStarted& started);
  void OnRescueReport(daemon::SessionId session, const daemon::Verdict& status);
  void SealRescued(daemon::SessionId session);
  void LookAtHold();
  void EndRescue();

  daemon::Event Mutated(daemon::Event event) const;

  Parts p_;
  const Mutation mutation_;
  FaultRates faults_;
  bool slow_copies_ = false;
  std::unique_ptr<daemon::JobMachine> machine_;
  uint64_t life_ = 0;
  int64_t started_at_ = 0, last_delivery_ = 0, last_arrival_ = 0;
  int64_t decided_ = 0;
  uint64_t next_flight_ = 0;
  std::map<uint64_t, Flight> flights_;
  std::map<std::string, Attempt> attempts_;
  std::multiset<std::string> loading_;  // attempts that are being read
  std::set<std::string> reserved_;      // for deletion
  bool rescues_on_ = false;
  std::map<daemon::SessionId, Member> members_;
  std::map<daemon::SessionId, Kept> kept_;
  std::optional<Rescue> rescue_;
  std::set<std::string> rescues_;  // attempts of this life
  std::set<std::pair<std::string, int32_t>> rescue_seals_;  // attempt, rank

  // The catalog: what a start finds.
  std::map<std::string, daemon::JournalEntry> journal_;
  bool roster_known_ = false;
  daemon::PutRoster roster_;
  std::set<std::string> catalog_;  // committed attempts
};

}  // namespace keepstep::sim

#endif  // KEEPSTEP_TESTS_SIM_SIM_DAEMON_H_
