// Decides an attempt: the only code that publishes a DECISION.
//
// Parts are published (PublishPart), never merely written: a part that can be seen is whole and flushed, so
// what a restart finds is what a power loss would leave.
//
// kCommit  1. SyncTree of the attempt's directory.
//          2. List it. Read back every expected part as published; each must be whole, of this attempt and of
//             this count, and every blob it names must be there in full. Bytes with the digest of a part that
//             this process published were judged then.
//          3. COMMIT = the intent that part 0 holds, with the size and digest of every part as read. Publish.
//          4. Anything but OK: read the slot as published. COMMIT of this attempt → committed, ABORT →
//          aborted.
//             Nothing there → publish again, a bounded number of times. Equality is by attempt, never by
//             bytes. A flush that failed (no space, I/O error) is not trusted again: what may be our record,
//             found after it, is kUncertain.
// kAbort   1. Publish ABORT in the same slot, settled as in 4; COMMIT found → committed, nothing is deleted.
//          2. Only then delete what the attempt's directory holds, parts first; DECISION stays.
// kSettle  For an attempt of an earlier daemon.
//          1. A decision there is final: COMMIT → committed, ABORT → reclaim.
//          2. Else as kCommit, with as many parts as part 0 counts; a part or blob missing or damaged →
//          kAbort.
//             A store that does not answer settles nothing.

#ifndef KEEPSTEP_STORAGE_COMMIT_H_
#define KEEPSTEP_STORAGE_COMMIT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/storage.pb.h"
#include "storage/store_op.h"

namespace keepstep::storage {

// What a commit needs of a part.
struct PartSummary {
  std::string digest;  // 16 bytes, of its record; empty: no part
  int64_t size_bytes = 0;
  std::string attempt;
  uint32_t index = 0, count = 0;
  v1::Decision intent;
  std::vector<std::pair<std::string, int64_t>> blobs;  // name, size
};

// `bytes` is the part's record.
PartSummary SummaryOf(const v1::Part& part, absl::string_view bytes);

struct CommitOutcome {
  enum class Kind : uint8_t {
    kCommitted,  // a durable COMMIT of this attempt; `decision` is it
    kAborted,    // a durable ABORT; `decision` is it; `status` says what could not be reclaimed yet, else OK
    kUndecided,  // this machine knows of no decision: undecided until a kAbort or kSettle succeeds
    kUncertain,  // a decision is in the slot but may not outlive a power loss, or cannot be read
  };
  Kind kind = Kind::kUndecided;
  absl::Status status;
  std::string
      reason;  // DURABILITY_UNCERTAIN, DECISION_DAMAGED, PART_INVALID, STORE_FAILED; empty when status is OK
  v1::Decision decision;
};

// Pure: no I/O, no clock. The driver carries out each operation and passes its result to the next call. One
// operation is out at a time. Not thread-safe; copyable, so that a simulator can fork it.
class CommitMachine {
 public:
  enum class Want : uint8_t { kCommit, kAbort, kSettle };

  static constexpr int kMaxTries = 4;  // of one operation that failed without harm

  // `intent` names step and attempt, and is the ABORT that is published if it comes to that (epoch, time,
  // reason, message, writer; the kind is set here). A COMMIT takes all else from part 0. `part_names` are
  // leaves, in the order of part indices; used by kCommit alone. `written` are parts that this process has
  // published itself: they are read back all the same, but bytes with that digest need not be judged again.
  // REQUIRES: a valid step and attempt name.
  CommitMachine(Want want, v1::Decision intent, std::vector<std::string> part_names,
                std::vector<PartSummary> written = {});

  // `previous` is null at the first call, then the result of the operation returned last. Not to be called
  // again after an outcome.
  std::variant<StoreOp, CommitOutcome> Next(const StoreResult* previous);

 private:
  using Step = std::variant<StoreOp, CommitOutcome>;
  enum class State : uint8_t {
    kStart,
    kSlotRead,
    kSynced,
    kListed,
    kPartRead,
    kPublished,
    kReread,
    kReclaimList,
    kReclaimed
  };

  Step OnSlotRead(const StoreResult& result);
  Step OnSynced(const StoreResult& result);
  Step OnListed(const StoreResult& result);
  Step OnPartRead(const StoreResult& result);
  Step OnPublished(const StoreResult& result);
  Step OnReread(const StoreResult& result);
  Step OnReclaimList(const StoreResult& result);
  Step OnReclaimed(const StoreResult& result);

  Step ReadSlot(State next);
  Step ReadNextPart();
  absl::StatusOr<PartSummary> Judge(absl::string_view bytes) const;
  Step PublishCommit();
  Step PublishAbort(absl::Status why);
  Step Publish();
  Step Found(const StoreResult& result);  // what the slot holds is the decision
  Step Reclaim();
  Step DeleteNext();
  Step PartsBad(absl::Status status);
  Step StoreFailed(absl::Status status);
  bool TryAgain(const absl::Status& status);  // whether the last operation may be repeated
  Step Do(State next, StoreOp op);
  static Step Done(CommitOutcome::Kind kind, absl::Status status, std::string reason);

  Want want_;
  v1::Decision abort_;
  std::string dir_;
  std::vector<std::string> part_names_;
  std::vector<PartSummary> written_;
  State state_ = State::kStart;
  StoreOp last_;
  int tries_ = 1;  // of last_
  int publishes_ = 0;
  bool flush_failed_ = false;
  bool publishing_commit_ = false;
  absl::Status publish_status_;
  v1::Decision commit_;
  std::vector<BlobInfo> listed_;
  size_t next_part_ = 0;
  std::vector<StoreOp> deletes_;
  size_t next_delete_ = 0;
  CommitOutcome aborted_;
};

// Drives `machine` to its outcome; blocks.
CommitOutcome Decide(BlobStore& store, CommitMachine machine);

// The operation that publishes one node's part. ALREADY_EXISTS is success only for the same bytes;
// PublishPart checks.
StoreOp PublishPartOp(int64_t step, const v1::Part& part);

// REQUIRES: the part's blobs are finished, every rank of it sealed. ALREADY_EXISTS: another part is there.
// DATA_LOSS, with nothing published, for a part that readers would refuse (ValidatePart). Blocks.
absl::StatusOr<PartSummary> PublishPart(BlobStore& store, int64_t step, const v1::Part& part);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_COMMIT_H_
