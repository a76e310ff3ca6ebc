// What goes into a job's logic and what comes out: the seam between decisions and I/O.
//
// JobMachine (job_machine.h) is a pure function of the events it was given: no clock, no threads, no I/O. A
// driver (daemon/job.h, or tests/sim in virtual time) feeds it one event at a time and carries out the
// actions, in order; each action that has an answer says which event that is. Answers may come late, in any
// order, or, after a crash, never.
//
// A save is named by its attempt once it has one, a rank's view of it by (session, number).

#ifndef KEEPSTEP_DAEMON_LOGIC_EVENTS_H_
#define KEEPSTEP_DAEMON_LOGIC_EVENTS_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "daemon/logic/retention.h"
#include "storage/commit.h"
#include "storage/disk_full.h"
#include "storage/store_op.h"

namespace keepstep::daemon {

using SessionId = uint64_t;  // unique in a daemon's life
using Nonce = std::array<uint8_t, 16>;
using Millis = int64_t;  // monotonic time, from any origin

enum class SaveState : uint8_t {  // the values of v1::SaveState
  kNone = 0,
  kAccepted = 1,
  kSnapshotted = 2,
  kPersisted = 3,
  kCommitted = 4,
  kSkipped = 5,
  kSuperseded = 6,
  kCancelled = 7,
  kFailed = 8,
};
enum class BusyPolicy : uint8_t { kWait = 0, kSkip = 1, kSupersede = 2 };

using storage::kReasonPayload;

// Why something did not happen. `reason` is an entry of docs/errors.md.
struct Failure {
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string reason, message, stage;
  int32_t rank = -1;
};

// ---- events
// -------------------------------------------------------------------------------------------------------

struct JournalEntry {  // a save that was in flight when an earlier daemon ended
  std::string attempt;
  int64_t step = 0, epoch = 0;
  bool collected = false;  // it was committed and then deleted, which storage no longer shows
};

struct RosterEntry {
  int32_t rank = 0;
  Nonce nonce{};
};

// First event of a machine: what the catalog remembers. `roster_known` false: the catalog was lost.
struct JobStarted {
  bool roster_known = false;
  int64_t epoch = 0;
  int32_t world_size = 0;
  std::vector<RosterEntry> roster;
  std::vector<JournalEntry> journal;
  RetentionPolicy retention;  // of that epoch
};

struct SessionOpened {
  SessionId session = 0;
  int32_t rank = 0, world_size = 0;
  Nonce nonce{};
  int64_t epoch = 0;  // 0: join
  uint64_t saves_issued = 0;
  RetentionPolicy retention;  // what the rank's program asks for; the same on every rank
};
struct SessionLost {
  SessionId session = 0;
};  // stream gone, pid alive: it may resume
struct SessionDead {
  SessionId session = 0;
};  // pid gone, closed, or lost for too long
// The process is gone and its memory is kept: nothing of it can be saved or loaded but by a rescue. Ends with
// SessionDead.
struct SessionKept {
  SessionId session = 0;
};
// Every session of the world is kept, and their memory is whole at this step → RescueStarted or RescueRefused.
struct RescueRequested {
  int64_t step = 0;
};
struct Registered {
  SessionId session = 0;
  uint64_t generation = 0;
  std::string fingerprint;
};
struct SaveRequested {
  SessionId session = 0;
  uint64_t number = 0;
  int64_t step = 0;
  uint64_t generation = 0;
  BusyPolicy policy = BusyPolicy::kWait;
};
struct PlanMade {
  std::string attempt;
  absl::Status status;
};
struct GroupCopied {
  std::string attempt;
  int32_t rank = 0;
  uint32_t group = 0;
};
struct RankCopied {
  std::string attempt;
  int32_t rank = 0;
};  // every group: the rank's source may change again
struct RankFlushed {
  std::string attempt;
  int32_t rank = 0;
};  // its blobs are durable
struct RankIoFailed {
  std::string attempt;
  int32_t rank = 0;
  std::string stage;
  absl::Status status;
};
struct VerdictSeen {
  SessionId session = 0;
  uint64_t number = 0;
  bool sealed = false;
};  // false: poisoned
struct PartWritten {
  std::string attempt;
  absl::Status status;
  storage::PartSummary part;  // when OK
};
struct IoStopped {
  std::string attempt;
};  // after StopIo: no buffer or file of the attempt is in use any more
struct LoadRequested {
  SessionId session = 0;
  uint64_t ticket = 0;
  bool latest = true;
  int64_t step = 0;
};
struct CancelRequested {
  uint64_t ticket = 0;
  int64_t step = 0;
};
struct DrainRequested {};
// What the policy would delete, or has deleted → AnswerCollect.
struct CollectRequested {
  uint64_t ticket = 0;
  bool dry_run = false;
  std::optional<RetentionPolicy> policy;  // absent: the job's
  bool take_over = false;                 // claims an epoch, with this nonce, if another daemon has the job
  Nonce nonce{};
};
// Somebody else's deletion of a checkpoint failed on its way: it is finished from here.
struct DeletionCut {};
struct SaveWished {};  // an operator or a preemption asks for a save at the next common step
struct StepsSeen {
  std::vector<int64_t> stepped;
};  // newest should_save step of each rank of the roster, -1: none
struct StoreDone {
  uint64_t op = 0;
  storage::StoreResult result;
};
struct CatalogDone {
  uint64_t op = 0;
  absl::Status status;
};
struct Tick {};
// Bytes of the attempt have moved; at most one a second. Without it a save whose groups take long looks
// stuck.
struct SaveProgressed {
  std::string attempt;
};

using Event =
    std::variant<JobStarted, SessionOpened, SessionLost, SessionDead, Registered, SaveRequested, PlanMade,
                 GroupCopied, RankCopied, RankFlushed, RankIoFailed, VerdictSeen, PartWritten, IoStopped,
                 LoadRequested, CancelRequested, DrainRequested, SaveWished, StepsSeen, StoreDone,
                 CatalogDone, Tick, SaveProgressed, CollectRequested, DeletionCut, SessionKept,
                 RescueRequested>;

// ---- actions
// ------------------------------------------------------------------------------------------------------

struct Verdict {  // what became of a save, as every rank is told
  uint64_t number = 0;
  int64_t step = 0;
  std::string attempt;
  SaveState state = SaveState::kNone;
  Failure failure;
};

struct AnswerOpen {
  SessionId session = 0;
  int64_t epoch = 0;
  std::vector<Verdict> unsettled;
  Failure failure;
};
struct MoveSession {
  SessionId session = 0;
  int64_t epoch = 0;
};
struct CloseSession {
  SessionId session = 0;
  Failure failure;
};
struct AnswerSave {
  SessionId session = 0;
  uint64_t number = 0;
  Verdict status;
  std::vector<Verdict> earlier;
};
struct AnswerLoad {
  SessionId session = 0;
  uint64_t ticket = 0;
  bool found = false;
  int64_t step = 0, epoch = 0;
  std::string attempt;
  Failure failure;
};
struct AnswerCancel {
  uint64_t ticket = 0;
  int32_t cancelled = 0;
};
struct Report {
  SessionId session = 0;
  Verdict status;
};  // state changed: page slot, watchers, log
// The group (or all groups) may change again as far as saves up to `number` are concerned.
struct Release {
  SessionId session = 0;
  uint64_t number = 0;
  bool all_groups = false;
  uint32_t group = 0;
};
// A save that the daemon makes for dead ranks; Reports of it follow. The driver seals for each rank.
struct RescueStarted {
  uint64_t number = 0;
  int64_t step = 0;
  std::string attempt;
};
struct RescueRefused {
  Failure failure;
};
struct SetSaveAt {
  int64_t step = 0;
};
// Ask for a plan from the ranks' registrations as they are now → PlanMade. `first`: compare samples of
// replicas too.
struct MakePlan {
  std::string attempt;
  int64_t step = 0;
  bool first = false;
};
// Start copying, digesting and writing one rank's share → GroupCopied…, RankCopied, RankFlushed or
// RankIoFailed.
struct StartRank {
  std::string attempt;
  int32_t rank = 0;
  SessionId session = 0;
  uint64_t number = 0;
};
struct WritePart {
  std::string attempt;
};  // from the pipelines' digests → PartWritten
struct StopIo {
  std::string attempt;
};  // cancel what runs, free its staging → IoStopped
struct DoStore {
  uint64_t op = 0;
  storage::StoreOp what;
};  // → StoreDone
struct PutJournal {
  uint64_t op = 0;
  JournalEntry entry;
};  // synced → CatalogDone
struct EraseJournal {
  uint64_t op = 0;
  std::string attempt;
};
struct PutRoster {
  uint64_t op = 0;
  int64_t epoch = 0;
  int32_t world_size = 0;
  std::vector<RosterEntry> roster;
  RetentionPolicy retention;
};
struct RecordCommit {
  uint64_t op = 0;
  std::string attempt;
  int64_t step = 0;
};  // synced → CatalogDone
struct RecordGone {
  uint64_t op = 0;
  std::string attempt;
  int64_t step = 0;
  std::string why;  // of a checkpoint that retention deleted; for the log
  int64_t bytes = 0;
};
// Nobody of this daemon reads the attempt, and until ReleaseAttempt nobody can → CatalogDone;
// FAILED_PRECONDITION: somebody does.
struct ReserveAttempt {
  uint64_t op = 0;
  std::string attempt;
  int64_t step = 0;
};
struct ReleaseAttempt {
  std::string attempt;
  int64_t step = 0;
};
struct AnswerCollect {
  uint64_t ticket = 0;
  RetentionPolicy policy;
  std::vector<RetentionDecision> decisions;
  int64_t freed_bytes = 0;
  Failure failure;  // what was decided before it stands
};
struct Drained {
  int32_t undecided = 0;
};

using Action =
    std::variant<AnswerOpen, MoveSession, CloseSession, AnswerSave, AnswerLoad, AnswerCancel, Report, Release,
                 SetSaveAt, MakePlan, StartRank, WritePart, StopIo, DoStore, PutJournal, EraseJournal,
                 PutRoster, RecordCommit, RecordGone, ReserveAttempt, ReleaseAttempt, AnswerCollect, Drained,
                 RescueStarted, RescueRefused>;

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_EVENTS_H_
