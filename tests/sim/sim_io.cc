// What the daemon's pipelines do of a save, in virtual time: copy each group, write and flush the blobs, write the part.

#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/attempt.h"
#include "storage/commit.h"
#include "storage/digest.h"
#include "tests/sim/sim_daemon.h"

namespace keepstep::sim {

using storage::StoreResult;

SimDaemon::Attempt& SimDaemon::AttemptOf(const std::string& name) {
  Attempt& attempt = attempts_[name];
  if (attempt.name.empty()) attempt.name = name;
  return attempt;
}

std::string SimDaemon::BlobPath(const Attempt& attempt, int32_t rank) const {
  return absl::StrCat(storage::AttemptDir(attempt.step, attempt.name), "/",
                      storage::BlobName(reshard::Component::kModel, rank, roster_.world_size));
}

void SimDaemon::CopyNext(Attempt& attempt, int32_t rank, int group) {
  ++attempt.running;
  const int64_t takes_ms = p_.random.Between(1, slow_copies_ && p_.random.Chance(0.5) ? 800 : 12);
  Post(takes_ms, [this, &a = attempt, rank, group] {
    Share& share = a.shares[rank];
    std::string content;
    const auto kept = kept_.find(share.start.session);
    const bool copied = !a.stopped && p_.trainers.CopyGroup(share.start.session, rank, group,
                                                            kept != kept_.end() && kept->second.memory, &content);
    share.content += content;
    Finished(a);
    if (a.stopped) return;
    if (!copied) {
      Feed(daemon::RankIoFailed{a.name, rank, "copy", absl::AbortedError("the trainer is gone")});
    } else if (group + 1 < kGroups) {
      CopyNext(a, rank, group + 1);
      Feed(daemon::GroupCopied{a.name, rank, static_cast<uint32_t>(group)});
    } else {
      WriteBlob(a, rank);
      Feed(daemon::GroupCopied{a.name, rank, static_cast<uint32_t>(group)});
      Feed(daemon::RankCopied{a.name, rank});
    }
  });
}

void SimDaemon::WriteBlob(Attempt& attempt, int32_t rank) {
  ++attempt.running;
  Post(p_.random.Between(1, 10), [this, &a = attempt, rank] {
    Share& share = a.shares[rank];
    share.path = BlobPath(a, rank);
    const absl::Status written =
        a.stopped ? absl::CancelledError("stopped") : p_.store.WriteBlob(share.path, share.content);
    Finished(a);
    if (a.stopped) return;
    if (written.ok()) {
      FlushBlob(a, rank);
    } else {
      Feed(daemon::RankIoFailed{a.name, rank, "write", written});
    }
  });
}

void SimDaemon::FlushBlob(Attempt& attempt, int32_t rank) {
  ++attempt.running;
  Post(p_.random.Between(1, 20), [this, &a = attempt, rank] {
    const Share& share = a.shares[rank];
    absl::Status flushed = p_.store.FlushBlob(share.path);
    if (!flushed.ok() && mutation_ == Mutation::kRetryFailedFlush) flushed = p_.store.FlushBlob(share.path);
    Finished(a);
    if (a.stopped) return;
    if (!flushed.ok()) {
      Feed(daemon::RankIoFailed{a.name, rank, "flush", flushed});
      return;
    }
    Feed(daemon::RankFlushed{a.name, rank});
    if (mutation_ == Mutation::kPartBeforeSealed && up()) {
      Feed(daemon::VerdictSeen{share.start.session, share.start.number, true});
    }
  });
}

void SimDaemon::WritePart(Attempt& a) {
  v1::Part part;
  part.set_attempt(a.name);
  part.set_index(0);
  part.set_count(1);
  v1::Decision& intent = *part.mutable_intent();
  intent.set_kind(v1::Decision::COMMIT);
  intent.set_step(a.step);
  intent.set_attempt(a.name);
  intent.set_epoch(storage::ParseAttempt(a.name)->epoch);
  intent.set_world_size(static_cast<int32_t>(a.shares.size()));
  intent.set_rescue(rescues_.contains(a.name) && mutation_ != Mutation::kForgetRescueMark);
  for (const auto& [rank, share] : a.shares) {
    if (!rescue_seals_.contains({a.name, rank}) && !p_.trainers.Sealed(share.start.session, share.start.number)) {
      p_.checker.Mislabelled(
          absl::StrCat("a part of ", a.name, " is written though rank ", rank, " has not sealed"));
    }
    v1::Blob& blob = *part.add_blobs();
    blob.set_name(share.path.substr(share.path.rfind('/') + 1));
    blob.set_size_bytes(static_cast<int64_t>(share.content.size()));
    blob.set_header_digest(storage::DigestOf(absl::string_view()).ToBytes());
    if (mutation_ == Mutation::kReportBeforePublish) {
      Do(daemon::Report{share.start.session,
                        {.number = share.start.number,
                         .step = a.step,
                         .attempt = a.name,
                         .state = daemon::SaveState::kCommitted}});
    }
  }
  ++a.running;
  storage::StoreOp op = storage::PublishPartOp(a.step, part);
  storage::PartSummary summary = storage::SummaryOf(part, op.bytes);
  RunStore(std::move(op), 0, [this, &a, summary = std::move(summary)](StoreResult result) {
    const bool stopped = a.stopped;
    Finished(a);
    if (!stopped) Feed(daemon::PartWritten{a.name, std::move(result.status), summary});
  });
}

void SimDaemon::StopIo(Attempt& attempt) {
  attempt.stopped = true;
  ++attempt.running;
  Post(p_.random.Between(0, 5), [this, &attempt] { Finished(attempt); });
}

void SimDaemon::Finished(Attempt& attempt) {
  if (--attempt.running == 0 && attempt.stopped) {
    Post(0, [this, &attempt] { Feed(daemon::IoStopped{attempt.name}); });
  }
}

}  // namespace keepstep::sim
