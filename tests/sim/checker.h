// Judges a simulated run by its own reading of the store: nothing here calls the code under test.
//
//   lost         a step reported COMMITTED to anyone that could not be restored after the worst power loss;
//                a load that goes back behind a commit that was reported; a later run that goes on from something
//                older than a rescue, and did not wait for it
//   mislabelled  content that is not exactly that of its step on every rank; ranks of one epoch that restore
//                different things; a verdict that changes; a COMMIT of what some rank did not seal; a rescue that is
//                not marked as one
//   broken       any other rule: deletion before ABORT, space not reclaimed, gates shut without need

#ifndef KEEPSTEP_TESTS_SIM_CHECKER_H_
#define KEEPSTEP_TESTS_SIM_CHECKER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "daemon/logic/events.h"
#include "daemon/logic/retention.h"
#include "proto/storage.pb.h"
#include "tests/sim/sim_store.h"

namespace keepstep::sim {

inline constexpr int kGroups = 2;

// What group `group` of rank `rank` holds after `step` updates.
std::string Content(int64_t step, int32_t rank, int group);

struct Findings {
  int64_t lost = 0, mislabelled = 0, broken = 0;
  std::vector<std::string> first;  // a few, in words
  bool any() const { return lost + mislabelled + broken > 0; }
};

class Checker {
 public:
  explicit Checker(const SimStore& store) : store_(store) {}

  void OnVerdict(const daemon::Verdict& verdict);  // told to any rank
  void OnRescue(const std::string& attempt) { rescues_.insert(attempt); }  // begins
  void OnLoaded(const daemon::AnswerLoad& answer,
                bool latest);              // an explicit step is answered with that step
  void OnDelete(const std::string& path);  // before a file of an attempt is deleted

  // Retention. What a run's ranks asked for; who is told that a step is pinned; before DELETING is published.
  void OnPolicy(int64_t epoch, const daemon::RetentionPolicy& policy) { policies_[epoch] = policy; }
  void OnPinned(int64_t step);
  void OnCondemn(const std::string& path, const std::multiset<std::string>& loading);
  void OnCondemned(const std::string& path);  // after it, done or not
  bool HasCommit(int64_t step) const;         // one that is not being deleted
  std::string NewestCommit() const;           // its directory
  int64_t SomeReportedStep(uint64_t random) const;
  std::string SomeCommit(uint64_t random) const;  // the attempt of one that readers see; empty: there is none
  void OnDaemonDied() { uncertain_.clear(); }  // the next one settles them
  int64_t deletions() const { return static_cast<int64_t>(condemned_.size()); }

  void OnPowerLoss() { CheckReported(); }  // after it
  void OnEnd();                            // nothing runs any more, the daemon has recovered
  void Broken(const std::string& what) { Note(findings_.broken, what); }
  void Mislabelled(const std::string& what) { Note(findings_.mislabelled, what); }

  const Findings& findings() const { return findings_; }
  int64_t commits() const { return static_cast<int64_t>(reported_.size()); }
  int64_t rescues() const;  // of those
  int64_t rescues_begun() const { return static_cast<int64_t>(rescues_.size()); }

 private:
  void Note(int64_t& count, const std::string& what);
  struct Commit {
    int64_t epoch = 0, step = 0, counter = 0;
    std::string attempt;
    bool rescue = false;
    auto operator<=>(const Commit&) const = default;
  };
  std::vector<Commit> Commits() const;  // that readers see, in the order that answers "latest"
  std::string Latest(const std::vector<Commit>& commits) const;  // attempt
  void CheckReported();
  void CheckPins();
  // Null if there is none.
  const v1::Decision* ReadDecision(int64_t step, const std::string& attempt, bool durable) const;
  // Empty if the checkpoint is committed and holds exactly what it should.
  std::string Restorable(int64_t step, const std::string& attempt, bool durable) const;
  void CheckNotBehind(const daemon::AnswerLoad& answer);
  void CheckRescue(int64_t step, const std::string& attempt);
  void CheckSpace();

  template <class Message>
  using Records = std::unordered_map<std::string, std::optional<Message>>;  // by their bytes

  const SimStore& store_;
  // What was parsed once: most records are read again and again.
  mutable Records<v1::Decision> decisions_;
  mutable Records<v1::Part> parts_;
  Findings findings_;
  std::set<std::pair<int64_t, std::string>> reported_;   // committed
  std::set<std::string> rescues_;                        // attempts
  std::map<int64_t, daemon::RetentionPolicy> policies_;  // by epoch
  std::map<std::string, int64_t> pinned_;  // attempts that the pinner saw, with their step
  std::set<std::string> condemned_;  // attempts that retention deletes
  std::set<std::string> uncertain_;  // told so in this life of the daemon
  std::map<std::string, std::pair<daemon::SaveState, std::string>>
      verdicts_;  // final ones by attempt, with reason
  // By epoch and step asked for, -1 for the latest.
  std::map<std::pair<int64_t, int64_t>, std::tuple<bool, int64_t, std::string>> restored_;
};

}  // namespace keepstep::sim

#endif  // KEEPSTEP_TESTS_SIM_CHECKER_H_
