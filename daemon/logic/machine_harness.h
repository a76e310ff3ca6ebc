// Drives a JobMachine for tests: a store in memory and a catalog that answer at once, unless a test takes
// them over.

#ifndef KEEPSTEP_DAEMON_LOGIC_MACHINE_HARNESS_H_
#define KEEPSTEP_DAEMON_LOGIC_MACHINE_HARNESS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "daemon/logic/events.h"
#include "daemon/logic/job_machine.h"
#include "storage/memory_store.h"

namespace keepstep::daemon {

Nonce NonceOf(uint8_t byte);

class MachineHarness {
 public:
  explicit MachineHarness(Limits limits = {});

  // A daemon's start with the catalog as the earlier one left it.
  void Start();
  void Restart() { Start(); }

  void Feed(const Event& event);
  void Advance(Millis by);  // in ticks

  // Sessions are numbered from 1 in the order of opening.
  SessionId Open(int32_t rank, int32_t world_size, uint8_t nonce, int64_t epoch = 0,
                 uint64_t saves_issued = 0);
  // Opens and registers ranks 0..n-1 with nonces nonce, nonce+1, …
  std::vector<SessionId> OpenWorld(int32_t world_size, uint8_t nonce);
  void Save(SessionId session, uint64_t number, int64_t step, BusyPolicy policy = BusyPolicy::kWait);
  void Load(SessionId session, uint64_t ticket);
  void LoadStep(SessionId session, uint64_t ticket, int64_t step);

  // Of the attempt whose ranks were started for this number last.
  std::string AttemptOf(uint64_t number) const { return started_.at(number); }
  void Copied(uint64_t number, int32_t rank);
  void Flushed(uint64_t number, int32_t rank);
  void Sealed(SessionId session, uint64_t number) { Feed(VerdictSeen{session, number, true}); }
  // Everything that a rank still owes this save.
  void Finish(uint64_t number, const std::vector<SessionId>& sessions);
  void StopIo(const std::string& attempt) { Feed(IoStopped{attempt}); }

  // Everything done since the last ForgetActions.
  template <class A>
  std::vector<A> All() const {
    std::vector<A> found;
    for (const Action& action : actions_) {
      if (const A* each = std::get_if<A>(&action)) found.push_back(*each);
    }
    return found;
  }
  template <class A>
  A Last() const {
    const std::vector<A> all = All<A>();
    return all.empty() ? A{} : all.back();
  }
  template <class A>
  int Count() const {
    return static_cast<int>(All<A>().size());
  }
  void ForgetActions() { actions_.clear(); }
  // The newest state of a save that a session was told, in an answer or a report.
  Verdict Told(SessionId session, uint64_t number) const;
  // Position of the first action that `match` accepts, or -1.
  int Position(const std::function<bool(const Action&)>& match) const;

  JobSnapshot Snapshot() const { return machine_->Snapshot(); }
  void SetLimits(const Limits& limits) { machine_->SetLimits(limits); }
  storage::MemoryStore& store() { return store_; }
  std::vector<std::string> Files(int64_t step, const std::string& attempt);

  // Taken over by tests: return a result instead of running the operation; hold answers back until Resume.
  std::function<std::optional<storage::StoreResult>(const storage::StoreOp&)> intercept;
  std::function<absl::Status(const Action&)> catalog_fault;
  bool hold_catalog = false, hold_io_stopped = false, hold_parts = false, hold_plans = false;
  void ReleaseCatalog();

  RetentionPolicy retention;  // what opened sessions ask for

  std::map<std::string, JournalEntry> journal;
  PutRoster roster;
  bool roster_known = false;
  std::vector<std::string> catalog;

 private:
  void Carry(const Action& action);
  void WritePart(const std::string& attempt);
  void AnswerCatalog(const Action& action);

  const Limits limits_;
  std::unique_ptr<JobMachine> machine_;
  Millis now_ = 0;
  uint64_t seed_ = 1;
  SessionId last_session_ = 0;
  storage::MemoryStore store_;
  std::vector<Action> actions_;
  std::deque<Event> answers_;
  std::vector<Action> held_catalog_;
  bool feeding_ = false;
  std::map<uint64_t, std::string> started_;
  struct Attempt {
    int64_t step = 0;
    int ranks = 0;
  };
  std::map<std::string, Attempt> attempts_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_MACHINE_HARNESS_H_
