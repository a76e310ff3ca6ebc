#include "tests/sim/sim_daemon.h"

#include <algorithm>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "storage/attempt.h"
#include "storage/commit.h"
#include "storage/digest.h"
#include "storage/record.h"

namespace keepstep::sim {

using storage::StoreOp;
using storage::StoreResult;

namespace {

constexpr int64_t kTickPeriodMs = 50;

// The design's limits, so much shorter that a run of seconds meets all of them.
daemon::Limits ShortLimits() {
  daemon::Limits limits;
  limits.resume_ms = 1'000;
  limits.roster_ms = 4'000;
  limits.save_progress_ms = 2'500;
  limits.claim_unsealed_ms = 400;
  limits.claim_sealed_ms = 1'500;
  limits.abort_report_ms = 1'000;
  limits.recover_ms = 1'500;
  limits.load_ms = 3'000;
  limits.retry_first_ms = 20;
  limits.retry_most_ms = 200;
  return limits;
}

bool IsAbort(const std::string& bytes) {
  absl::StatusOr<v1::Decision> decision = storage::DecodeDecision(bytes);
  return decision.ok() && decision->kind() == v1::Decision::ABORT;
}

}  // namespace

void SimDaemon::Start() {
  ++life_;
  p_.trace.AddLine(p_.clock.now(), absl::StrCat("daemon starts, life ", life_));
  started_at_ = p_.clock.now();
  machine_ =
      std::make_unique<daemon::JobMachine>(ShortLimits(), p_.random.Next(), 1'700'000'000'000 + started_at_);
  daemon::JobStarted started{.roster_known = roster_known_,
                             .epoch = roster_.epoch,
                             .world_size = roster_.world_size,
                             .roster = roster_.roster};
  for (const auto& [attempt, entry] : journal_) started.journal.push_back(entry);
  Feed(started);
  struct Ticker {
    SimDaemon& daemon;
    void operator()() const {
      daemon.Feed(daemon::Tick{});
      daemon.Post(kTickPeriodMs, *this);
    }
  };
  Post(kTickPeriodMs, Ticker{*this});
}

void SimDaemon::Kill() {
  p_.trace.AddLine(p_.clock.now(), "daemon dies");
  machine_.reset();
  attempts_.clear();
  for (auto& [id, flight] : std::exchange(flights_, {})) {
    if (flight.row) {
      if (p_.random.Chance(0.5)) flight.row();
    } else {
      p_.store.Interrupt(flight.op);
    }
  }
}

void SimDaemon::Send(daemon::Event event) {
  if (!up()) return;
  last_arrival_ = std::max(last_arrival_, p_.clock.now() + p_.random.Between(0, 3));
  if (mutation_ != Mutation::kNone) {
    Post(last_arrival_ - p_.clock.now(), [this, event = std::move(event)] { Feed(Mutated(event)); });
  } else {
    Post(last_arrival_ - p_.clock.now(), [this, event = std::move(event)] { Feed(event); });
  }
}

daemon::Event SimDaemon::Mutated(daemon::Event event) const {
  if (auto* seen = std::get_if<daemon::VerdictSeen>(&event); seen && mutation_ == Mutation::kAcceptPoisoned) {
    seen->sealed = true;
  }
  auto* opened = std::get_if<daemon::SessionOpened>(&event);
  if (opened && opened->epoch != 0 && mutation_ == Mutation::kResumeStaleEpoch) {
    opened->epoch = roster_.epoch;
    for (const daemon::RosterEntry& entry : roster_.roster) {
      if (entry.rank == opened->rank) opened->nonce = entry.nonce;
    }
  }
  return event;
}

void SimDaemon::Feed(const daemon::Event& event) {
  if (!std::holds_alternative<daemon::Tick>(event)) p_.trace.Add(p_.clock.now(), event);
  for (const daemon::Action& action : machine_->OnEvent(event, p_.clock.now() - started_at_)) Do(action);
}

void SimDaemon::Tell(daemon::SessionId session, const daemon::Action& action) {
  last_delivery_ = std::max(last_delivery_, p_.clock.now() + p_.random.Between(0, 2));
  Post(last_delivery_ - p_.clock.now(), [this, session, action] { p_.trainers.Deliver(session, action); });
}

void SimDaemon::Do(const daemon::Action& action) {
  p_.trace.Add(p_.clock.now(), action);
  std::visit(
      [this, &action](const auto& a) {
        using A = std::decay_t<decltype(a)>;
        if constexpr (std::is_same_v<A, daemon::AnswerOpen>) {
          for (const daemon::Verdict& verdict : a.unsettled) p_.checker.OnVerdict(verdict);
          Tell(a.session, action);
        } else if constexpr (std::is_same_v<A, daemon::AnswerSave>) {
          p_.checker.OnVerdict(a.status);
          for (const daemon::Verdict& verdict : a.earlier) p_.checker.OnVerdict(verdict);
          Tell(a.session, action);
        } else if constexpr (std::is_same_v<A, daemon::Report>) {
          p_.checker.OnVerdict(a.status);
          decided_ += a.status.state >= daemon::SaveState::kCommitted;
          Tell(a.session, action);
        } else if constexpr (std::is_same_v<A, daemon::MoveSession> ||
                             std::is_same_v<A, daemon::CloseSession> ||
                             std::is_same_v<A, daemon::AnswerLoad> || std::is_same_v<A, daemon::Release>) {
          Tell(a.session, action);
        } else if constexpr (std::is_same_v<A, daemon::MakePlan>) {
          attempts_[a.attempt].step = a.step;
          const bool fails = p_.random.Chance(faults_.error);
          Post(p_.random.Between(0, 5), [this, attempt = a.attempt, fails] {
            Feed(
                daemon::PlanMade{attempt, fails ? absl::FailedPreconditionError("holes") : absl::OkStatus()});
          });
        } else if constexpr (std::is_same_v<A, daemon::StartRank>) {
          attempts_[a.attempt].ranks[a.rank] = a;
          if (mutation_ == Mutation::kReleaseBeforeCopied) {
            Tell(a.session, daemon::Release{.session = a.session, .number = a.number, .all_groups = true});
          }
          if (mutation_ != Mutation::kSkipJournal && !journal_.contains(a.attempt)) {
            p_.checker.Broken(absl::StrCat(a.attempt, " starts without a journal entry"));
          }
          CopyNext(a.attempt, a.rank, 0);
        } else if constexpr (std::is_same_v<A, daemon::WritePart>) {
          WritePart(a.attempt);
        } else if constexpr (std::is_same_v<A, daemon::StopIo>) {
          if (mutation_ == Mutation::kEraseJournalFirst) journal_.erase(a.attempt);
          StopIo(a.attempt);
        } else if constexpr (std::is_same_v<A, daemon::DoStore>) {
          OnDoStore(a);
        } else if constexpr (std::is_same_v<A, daemon::PutJournal>) {
          Catalog(a.op, [this, entry = a.entry] {
            if (mutation_ != Mutation::kSkipJournal) journal_[entry.attempt] = entry;
          });
        } else if constexpr (std::is_same_v<A, daemon::EraseJournal>) {
          Catalog(a.op, [this, attempt = a.attempt] { journal_.erase(attempt); });
        } else if constexpr (std::is_same_v<A, daemon::PutRoster>) {
          Catalog(a.op, [this, a] { roster_ = a, roster_known_ = true; });
        } else if constexpr (std::is_same_v<A, daemon::RecordCommit>) {
          Catalog(a.op, [this, attempt = a.attempt] { catalog_.insert(attempt); });
        } else if constexpr (std::is_same_v<A, daemon::RecordGone>) {
          Catalog(a.op, [this, attempt = a.attempt] { catalog_.erase(attempt); });
        }
      },
      action);
}

void SimDaemon::Catalog(uint64_t op, std::function<void()> change) {
  const uint64_t flight = next_flight_++;
  flights_[flight].row = std::move(change);
  Post(p_.random.Between(0, 4), [this, op, flight] {
    const std::function<void()> change = std::move(flights_.extract(flight).mapped().row);
    const bool fails = p_.random.Chance(faults_.error);
    if (!fails || p_.random.Chance(0.5)) change();
    Feed(daemon::CatalogDone{op, fails ? absl::UnavailableError("catalog") : absl::OkStatus()});
  });
}

void SimDaemon::RunStore(StoreOp op, int64_t extra_ms, std::function<void(StoreResult)> then) {
  const uint64_t flight = next_flight_++;
  flights_[flight].op = std::move(op);
  Post(extra_ms + p_.random.Between(0, 5), [this, flight, then = std::move(then)] {
    const StoreOp op = std::move(flights_.extract(flight).mapped().op);
    if (op.kind == StoreOp::Kind::kDelete || op.kind == StoreOp::Kind::kDeleteTree)
      p_.checker.OnDelete(op.path);
    then(p_.store.Run(op));
  });
}

void SimDaemon::OnDoStore(const daemon::DoStore& action) {
  const StoreOp& op = action.what;
  const bool publish = op.kind == StoreOp::Kind::kPublish;
  if (mutation_ == Mutation::kDeleteBeforeAbort && publish && IsAbort(op.bytes)) {
    const std::string dir = op.path.substr(0, op.path.rfind('/'));
    for (const auto& [leaf, directory] : p_.store.List(dir)) {
      p_.checker.OnDelete(absl::StrCat(dir, "/", leaf));
      p_.store.Run({.kind = StoreOp::Kind::kDelete, .path = absl::StrCat(dir, "/", leaf)});
    }
  }
  if (mutation_ == Mutation::kSkipDirectorySync && op.kind == StoreOp::Kind::kSyncTree) {
    Post(1, [this, id = action.op] { Feed(daemon::StoreDone{id, {}}); });
    return;
  }
  if (mutation_ == Mutation::kLatestBeforePublished && publish && absl::EndsWith(op.path, "/LATEST")) {
    Post(1, [this, id = action.op] { Feed(daemon::StoreDone{id, {}}); });
    RunStore(op, 40, [](StoreResult) {});
    return;
  }
  RunStore(op, 0, [this, id = action.op](StoreResult result) {
    Feed(daemon::StoreDone{id, std::move(result)});
  });
}

std::string SimDaemon::BlobPath(const std::string& attempt, int32_t rank) const {
  return absl::StrCat(storage::AttemptDir(attempts_.at(attempt).step, attempt), "/",
                      storage::BlobName(reshard::Component::kModel, rank, roster_.world_size));
}

void SimDaemon::CopyNext(const std::string& attempt, int32_t rank, int group) {
  ++attempts_[attempt].running;
  const int64_t takes_ms = p_.random.Between(1, slow_copies_ && p_.random.Chance(0.5) ? 800 : 12);
  Post(takes_ms, [this, attempt, rank, group] {
    Attempt& a = attempts_[attempt];
    const daemon::SessionId session = a.ranks[rank].session;
    std::string content;
    const bool copied = !a.stopped && p_.trainers.CopyGroup(session, rank, group, &content);
    a.content[rank] += content;
    Finished(attempt);
    if (a.stopped) return;
    if (!copied) {
      Feed(daemon::RankIoFailed{attempt, rank, "copy", absl::AbortedError("the trainer is gone")});
    } else if (group + 1 < kGroups) {
      CopyNext(attempt, rank, group + 1);
      Feed(daemon::GroupCopied{attempt, rank, static_cast<uint32_t>(group)});
    } else {
      WriteBlob(attempt, rank);
      Feed(daemon::GroupCopied{attempt, rank, static_cast<uint32_t>(group)});
      Feed(daemon::RankCopied{attempt, rank});
    }
  });
}

void SimDaemon::WriteBlob(const std::string& attempt, int32_t rank) {
  ++attempts_[attempt].running;
  Post(p_.random.Between(1, 10), [this, attempt, rank] {
    Attempt& a = attempts_[attempt];
    const absl::Status written = a.stopped ? absl::CancelledError("stopped")
                                           : p_.store.WriteBlob(BlobPath(attempt, rank), a.content[rank]);
    Finished(attempt);
    if (a.stopped) return;
    if (written.ok()) {
      FlushBlob(attempt, rank);
    } else {
      Feed(daemon::RankIoFailed{attempt, rank, "write", written});
    }
  });
}

void SimDaemon::FlushBlob(const std::string& attempt, int32_t rank) {
  ++attempts_[attempt].running;
  Post(p_.random.Between(1, 20), [this, attempt, rank] {
    Attempt& a = attempts_[attempt];
    absl::Status flushed = p_.store.FlushBlob(BlobPath(attempt, rank));
    if (!flushed.ok() && mutation_ == Mutation::kRetryFailedFlush)
      flushed = p_.store.FlushBlob(BlobPath(attempt, rank));
    Finished(attempt);
    if (a.stopped) return;
    if (!flushed.ok()) {
      Feed(daemon::RankIoFailed{attempt, rank, "flush", flushed});
      return;
    }
    Feed(daemon::RankFlushed{attempt, rank});
    if (mutation_ == Mutation::kPartBeforeSealed && up()) {
      Feed(daemon::VerdictSeen{a.ranks[rank].session, a.ranks[rank].number, true});
    }
  });
}

void SimDaemon::WritePart(const std::string& attempt) {
  Attempt& a = attempts_[attempt];
  v1::Part part;
  part.set_attempt(attempt);
  part.set_index(0);
  part.set_count(1);
  v1::Decision& intent = *part.mutable_intent();
  intent.set_kind(v1::Decision::COMMIT);
  intent.set_step(a.step);
  intent.set_attempt(attempt);
  intent.set_epoch(storage::ParseAttempt(attempt)->epoch);
  intent.set_world_size(static_cast<int32_t>(a.ranks.size()));
  for (const auto& [rank, start] : a.ranks) {
    if (!p_.trainers.Sealed(start.session, start.number)) {
      p_.checker.Mislabelled(
          absl::StrCat("a part of ", attempt, " is written though rank ", rank, " has not sealed"));
    }
    const std::string path = BlobPath(attempt, rank);
    v1::Blob& blob = *part.add_blobs();
    blob.set_name(path.substr(path.rfind('/') + 1));
    blob.set_size_bytes(static_cast<int64_t>(a.content[rank].size()));
    blob.set_header_digest(storage::DigestOf(absl::string_view()).ToBytes());
    if (mutation_ == Mutation::kReportBeforePublish) {
      Do(daemon::Report{start.session,
                        {.number = start.number,
                         .step = a.step,
                         .attempt = attempt,
                         .state = daemon::SaveState::kCommitted}});
    }
  }
  ++a.running;
  RunStore(storage::PublishPartOp(a.step, part), 0, [this, attempt](StoreResult result) {
    const bool stopped = attempts_[attempt].stopped;
    Finished(attempt);
    if (!stopped) Feed(daemon::PartWritten{attempt, result.status});
  });
}

void SimDaemon::StopIo(const std::string& attempt) {
  Attempt& a = attempts_[attempt];
  a.stopped = true;
  ++a.running;
  Post(p_.random.Between(0, 5), [this, attempt] { Finished(attempt); });
}

void SimDaemon::Finished(const std::string& attempt) {
  Attempt& a = attempts_[attempt];
  if (--a.running == 0 && a.stopped) Post(0, [this, attempt] { Feed(daemon::IoStopped{attempt}); });
}

}  // namespace keepstep::sim
