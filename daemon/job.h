// Drives one job: feeds its JobMachine (logic/job_machine.h) one event at a time and carries out what it
// answers.
//
// Everything of a job happens on its strand; only I/O runs elsewhere and comes back as events. Methods below
// post and return; their callbacks run on the strand and must not block. Actions are carried out in the order
// in which the machine gave them.

#ifndef KEEPSTEP_DAEMON_JOB_H_
#define KEEPSTEP_DAEMON_JOB_H_

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "daemon/attempt_io.h"
#include "daemon/client_session.h"
#include "daemon/data_plane.h"
#include "daemon/executor.h"
#include "daemon/job_meter.h"
#include "daemon/job_view.h"
#include "daemon/log.h"
#include "daemon/logic/job_machine.h"
#include "daemon/plan_cache.h"
#include "daemon/pulse.h"
#include "daemon/reader_leases.h"
#include "daemon/rescue_judge.h"
#include "daemon/rescue_limits.h"
#include "daemon/save_tracker.h"
#include "storage/blob_store.h"
#include "storage/catalog.h"

namespace keepstep::daemon {

class Job;

// What all jobs of a daemon share; outlives them.
struct JobServices {
  DataPlane* plane = nullptr;
  Executor* logic = nullptr;  // of strands
  Executor* io = nullptr;     // of store operations, catalog, plans
  storage::Catalog* catalog = nullptr;
  ReaderLeases* leases = nullptr;
  RescueLimits* rescue = nullptr;  // null: no memory of dead trainers is kept
  Log* log = nullptr;
  Metrics* metrics = nullptr;  // null: nothing is counted
  Limits limits;               // at a job's start, as quota_bytes
  bool trust_rosters = true;  // false: the catalog was lost
  bool read_only = false;     // nothing beneath any job changes
  int64_t quota_bytes = 0;    // that a job may hold; 0: no quota
  std::function<void(SessionId, absl::Status)> end_session;
  std::function<void(const Job&, absl::string_view attempt)> forget_checkpoint;  // that is cached; any thread
};

struct JobIdentity {
  std::string path;   // of the directory, as resolved: the catalog's key
  std::string label;  // its last part
  uid_t owner = 0;
  dev_t device = 0;
  ino_t inode = 0;
  bool under_root = false;  // of a root that the operator listed
};

class Job : public std::enable_shared_from_this<Job> {
 public:
  // What an open session hears later.
  using Membered = std::variant<MoveSession, CloseSession>;
  using Listener = std::function<void(const Membered&)>;

  // Reads roster and journal, then starts the machine.
  static std::shared_ptr<Job> Start(const JobServices& services, JobIdentity identity,
                                    std::shared_ptr<storage::BlobStore> store);
  ~Job();

  const JobIdentity& identity() const { return identity_; }
  const std::string& label() const { return identity_.label; }
  const std::shared_ptr<storage::BlobStore>& store() const { return store_; }
  // What keeps this job's blobs apart from others' in the block cache.
  std::string cache_prefix() const { return identity_.path + "/"; }
  // What reads of its checkpoints and deletions know an attempt by (reader_leases.h).
  std::string LeaseKey(absl::string_view attempt) const { return absl::StrCat(cache_prefix(), attempt); }

  // ---- sessions ----
  void Open(std::shared_ptr<ClientSession> session, const SessionOpened& opened,
            std::function<void(const AnswerOpen&, std::vector<v1::SaveStatus>)> done, Listener listener);
  void SessionGone(SessionId session, bool dead);  // lost, or dead
  // Its process has died and it is granted crash flush: keeps its memory, or ends it. Takes the session over.
  void SessionDied(std::shared_ptr<ClientSession> session);
  void Registered(SessionId session, uint64_t generation, std::string fingerprint);
  void LookAtVerdicts(SessionId session);

  // ---- saves ----
  // Decides here and now if the strand is free, so that the answer needs no other thread.
  void Save(SessionId session, SaveArgs args, std::function<void(absl::StatusOr<v1::SaveResponse>)> done);
  // `number` 0: by step. `ticket` (0: none) is for StopWaiting and is given before `done` can run.
  void Wait(SessionId session, uint64_t number, int64_t step, SaveState state,
            std::function<void(uint64_t ticket)> ticket, SaveTracker::WaitDone done);
  void StopWaiting(uint64_t ticket);
  void Watch(SessionId session, SaveTracker::Watcher watcher, std::function<void(uint64_t ticket)> ticket);
  void StopWatching(uint64_t ticket);

  // ---- others ----
  void ResolveLoad(SessionId session, bool latest, int64_t step, std::function<void(const AnswerLoad&)> done);
  void Cancel(int64_t step, std::function<void(int32_t cancelled)> done);
  // `done` gets the step, or UNAVAILABLE when no rank looks for long.
  void WishSave(std::function<void(absl::StatusOr<int64_t>)> done);
  void Drain(std::function<void(int32_t undecided)> done);
  // `ticket` is set here.
  void Collect(CollectRequested request, std::function<void(const AnswerCollect&)> done);
  // A deletion that this job's machine did not make failed on its way: the machine finishes it.
  void FinishDeletions();
  void Tick();
  JobView View();  // waits for the strand; not from a strand
  // For what has begun, too; a save that was found to have room keeps it. Any thread.
  void SetLimits(const Limits& limits, int64_t quota_bytes);
  // Of the newest commit that this daemon made or found in the catalog; 0: none. Any thread.
  int64_t last_commit_unix_ms() const { return last_commit_unix_ms_; }
  const Pulse& ticked() const { return ticked_; }  // its strand, by its ticks; any thread
  bool recovering() const { return recovering_; }  // settling what an earlier daemon left; any thread
  // A save that the machine did not make (attempt_writer.h) is over. Any thread.
  void CountDirectSave(const absl::Status& outcome, int64_t bytes);
  // As of the last second: no session, no save and no call waits for anything here. Any thread.
  bool unused() const { return unused_; }
  // Decides nothing more; for an unused job whose directory is gone. Does not block.
  void LetGo();
  // Stops all I/O and forgets the sessions; blocks. What is undecided stays in the journal.
  void Stop();

 private:
  using Clock = std::chrono::steady_clock;
  // The memory of a dead trainer, for as long as this lives.
  class KeptMemory {
   public:
    KeptMemory(RescueLimits* limits, std::shared_ptr<ClientSession> session, int64_t bytes)
        : limits_(limits), session_(std::move(session)), bytes_(bytes) {}
    ~KeptMemory();

   private:
    RescueLimits* const limits_;
    const std::shared_ptr<ClientSession> session_;
    const int64_t bytes_;  // taken of the limits
  };
  struct Kept {
    Clock::time_point until;
    std::unique_ptr<KeptMemory> memory;  // null: copied, and let go
    RankJudgement judged;                // once every rank is kept
  };

  struct Member {
    std::shared_ptr<ClientSession> session;
    std::optional<Kept> kept;  // its process is dead
    int32_t rank = 0;
    uint64_t saves_issued = 0;
    bool open = false;
    std::function<void(const AnswerOpen&, std::vector<v1::SaveStatus>)> opened;
    Listener listener;
    std::map<uint64_t, SaveArgs> saves;  // asked for, not over
    std::multimap<uint64_t, std::function<void(absl::StatusOr<v1::SaveResponse>)>> answers;
    std::set<uint64_t> unsealed;  // whose verdict word is still to be seen
    bool wished = false;          // its page's wish has been taken
  };

  struct Rescue {  // every rank of the world is kept
    uint64_t number = 0;  // of the save; 0: they are being judged
    int64_t step = -1;
    std::string attempt;
    std::string why;  // this failed the save
  };

  struct RankSeen {
    pid_t pid = 0;
    bool open = false;
    Clock::time_point since;
  };

  Job(const JobServices& services, JobIdentity identity, std::shared_ptr<storage::BlobStore> store);

  void Post(std::function<void(Job&)> task);
  void Feed(Event event);  // on the strand; queues behind the event under way
  void ReadCatalog();
  Millis Now() const;

  // job_actions.cc
  void Carry(const Action& action);
  void Do(const AnswerOpen& action);
  void Do(const MoveSession& action);
  void Do(const CloseSession& action);
  void Do(const AnswerSave& action);
  void Do(const AnswerLoad& action);
  void Do(const AnswerCancel& action);
  void Do(const Report& action);
  void Do(const Release& action);
  void Do(const SetSaveAt& action);
  void Do(const MakePlan& action);
  void Do(const StartRank& action);
  void Do(const WritePart& action);
  void Do(const StopIo& action);
  void Do(const DoStore& action);
  void Do(const PutJournal& action);
  void Do(const EraseJournal& action);
  void Do(const PutRoster& action);
  void Do(const RecordCommit& action);
  void Do(const RecordGone& action);
  void Do(const ReserveAttempt& action);
  void Do(const ReleaseAttempt& action);
  void Do(const AnswerCollect& action);
  void Do(const Drained& action);
  void Do(const RescueStarted& action);
  void Do(const RescueRefused& action);
  void OnCatalog(uint64_t op, std::function<absl::Status()> work);
  void LogOutcome(const Verdict& verdict);

  // job_rescue.cc
  bool Keep(SessionId id);  // false: it is not to be kept
  void JudgeIfAllKept();
  void OnJudged(std::vector<RankJudgement> ranks);
  void Seal(SessionId id, Member& member);
  void LookAtHold();
  void OnRescueReport(SessionId id, Member& member, const Verdict& status);
  void EndRescue(std::string why);  // if any is kept: nothing was saved
  void GiveUp(std::string why, bool lost = true);  // nothing was saved; `lost`: though something should have been
  void BuryKept();
  void NoteRescue(RescueView view);

  // job_view.cc
  void SawRank(int32_t rank, pid_t pid, bool open);
  void KeepOutcome(const Verdict& verdict, const AttemptIo* attempt);
  SaveInFlight ViewOf(const SaveSnapshot& save);
  void ViewRank(int32_t rank, JobView& view) const;

  void Bury(SessionId session);  // its process is dead
  Member* Find(SessionId session);
  AttemptIo* FindAttempt(const std::string& attempt);
  ShareProgress ProgressOf(const Member& member, const Verdict& verdict);
  void LookAtVerdicts(SessionId id, Member& member);
  void LookAtAllVerdicts();
  void EverySecond();
  bool IsUnused() const;
  void ForgetCallers();

  const JobServices services_;
  const JobIdentity identity_;
  const std::shared_ptr<storage::BlobStore> store_;
  const Clock::time_point origin_ = Clock::now();
  Strand strand_;

  JobMachine machine_;
  std::atomic<int64_t> quota_bytes_;
  JobMeter meter_;
  bool feeding_ = false;
  std::deque<Event> events_;
  bool started_ = false, stopped_ = false;
  std::vector<Event> before_start_;  // what arrived before the catalog had been read

  PlanCache plans_;
  std::shared_ptr<const reshard::SavePlan> plan_;  // newest
  std::map<SessionId, Member> members_;
  std::map<int32_t, SessionId> ranks_;
  std::map<std::string, std::shared_ptr<AttemptIo>> attempts_;
  SaveTracker tracker_;
  uint64_t next_ticket_ = 1;
  std::map<uint64_t, std::function<void(const AnswerLoad&)>> loads_;
  std::map<uint64_t, std::function<void(int32_t)>> cancels_;
  std::map<uint64_t, std::function<void(const AnswerCollect&)>> collects_;
  std::vector<std::pair<Clock::time_point, std::function<void(absl::StatusOr<int64_t>)>>> wishes_;
  std::vector<std::function<void(int32_t)>> drains_;
  std::set<std::pair<int64_t, std::string>> logged_;
  std::deque<SaveOutcome> outcomes_;        // newest kOutcomesKept
  std::map<int32_t, RankSeen> ranks_seen_;  // by rank, of this daemon's life
  std::optional<Rescue> rescue_;
  std::optional<RescueView> last_rescue_;
  bool rescue_told_ = false;  // what became of this world's; until a session opens
  Clock::time_point last_second_ = Clock::now();
  int64_t save_at_ = -1;
  std::atomic<int64_t> last_commit_unix_ms_{0};
  std::atomic<bool> recovering_{true};
  std::atomic<bool> unused_{false};
  Pulse ticked_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_JOB_H_
