// Times a job's saves by watching what goes into its machine and what comes out. Decides nothing, asks
// nothing.
//
// Stages of one save, of all its ranks together, one after the other:
//   journal   PutJournal → durable          plan   MakePlan → PlanMade (the first save of a layout)
//   copy      first StartRank → last RankCopied
//   seal      last RankCopied → last verdict, beside
//   persist   last RankCopied → last RankFlushed (what copying did not hide)
//   part      WritePart → PartWritten       commit → the decision is published       catalog → told
// They are counted when the save commits: a failed one has an outcome and a reason, no stages.
//
// Lives on its job's strand.

#ifndef KEEPSTEP_DAEMON_JOB_METER_H_
#define KEEPSTEP_DAEMON_JOB_METER_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "daemon/logic/events.h"
#include "daemon/metrics.h"

namespace keepstep::daemon {

class JobMeter {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // `metrics` outlives it; null: counts nothing.
  explicit JobMeter(Metrics* metrics) : metrics_(metrics) {}
  ~JobMeter();
  JobMeter(const JobMeter&) = delete;
  JobMeter& operator=(const JobMeter&) = delete;

  void Saw(const Event& event, Time now);    // before the machine takes it
  void Saw(const Action& action, Time now);  // before it is carried out
  // Once for each save that is over without a commit.
  void Over(const Verdict& verdict);
  // With the bytes of all its ranks, when the decision is published: by one of ours, or, for a save that an
  // earlier daemon left, by recovery. Again for the same attempt: ignored.
  void Committed(const std::string& attempt, int64_t bytes, Time now);

 private:
  struct Attempt {
    uint64_t number = 0, journal_op = 0;
    Time journal_begin{}, journal_end{}, plan_begin{}, plan_end{};
    Time first_call{}, first_start{}, last_copy{}, last_verdict{}, last_flush{}, part_begin{}, part_end{};
    Time published{};
    std::map<int32_t, Time> calls;  // of save, by rank
  };
  static constexpr size_t kMaxCalls = 1 << 16;
  static constexpr size_t kMaxRemembered = 64;

  void Take(const StartRank& action, Time now);
  void Take(const DoStore& action);
  void Take(const StoreDone& event);
  void CountStages(const Attempt& attempt, int64_t bytes);
  void ForgetCalls(uint64_t number);
  Attempt* Find(const std::string& attempt);

  Metrics* const metrics_;
  std::map<std::pair<uint64_t, SessionId>, Time> calls_;  // of save, by number
  std::map<std::string, Attempt> attempts_;               // journaled, undecided
  std::map<uint64_t, std::string> operations_;            // of storage, under way: kind and path
  std::set<std::string> failed_;  // such operations that failed and may be tried again
  std::set<std::string> committed_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_JOB_METER_H_
