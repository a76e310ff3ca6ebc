#include "tests/sim/sim_daemon.h"

#include <algorithm>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "storage/attempt.h"
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
  limits.no_room_ms = 300;
  limits.recover_ms = 1'500;
  limits.load_ms = 3'000;
  limits.retry_first_ms = 20;
  limits.retry_most_ms = 200;
  return limits;
}

constexpr int64_t kTenYearsMs = int64_t{10} * 365 * 86'400'000;

bool IsAbort(const std::string& bytes) {
  absl::StatusOr<v1::Decision> decision = storage::DecodeDecision(bytes);
  return decision.ok() && decision->kind() == v1::Decision::ABORT;
}

}  // namespace

void SimDaemon::Start() {
  ++life_;
  p_.trace.AddLine(p_.clock.now(), absl::StrCat("daemon starts, life ", life_));
  started_at_ = p_.clock.now();
  // Each life finds a wall clock that has jumped: records carry its time, nothing may depend on it.
  const int64_t wall_ms = 1'700'000'000'000 + started_at_ + p_.random.Between(-kTenYearsMs, kTenYearsMs);
  machine_ = std::make_unique<daemon::JobMachine>(ShortLimits(), p_.random.Next(), wall_ms);
  daemon::JobStarted started{.roster_known = roster_known_,
                             .epoch = roster_.epoch,
                             .world_size = roster_.world_size,
                             .roster = roster_.roster,
                             .retention = roster_.retention};
  for (const auto& [attempt, entry] : journal_) started.journal.push_back(entry);
  Feed(started);
  struct Ticker {
    SimDaemon& daemon;
    void operator()() const {
      daemon.Feed(daemon::Tick{});
      daemon.LookAtHold();
      daemon.Post(kTickPeriodMs, *this);
    }
  };
  Post(kTickPeriodMs, Ticker{*this});
}

void SimDaemon::ChangeLimits() {
  if (!up()) return;
  daemon::Limits limits = ShortLimits();
  limits.max_saves_in_flight = static_cast<int>(p_.random.Between(1, 3));
  limits.max_saves_queued = static_cast<int>(p_.random.Between(1, 8));
  for (daemon::Millis* one : {&limits.resume_ms, &limits.roster_ms, &limits.save_progress_ms,
                              &limits.claim_unsealed_ms, &limits.claim_sealed_ms, &limits.abort_report_ms,
                              &limits.no_room_ms,
                              &limits.recover_ms, &limits.load_ms, &limits.retry_most_ms}) {
    *one = p_.random.Between(*one / 2, *one);
  }
  p_.trace.AddLine(p_.clock.now(), "limits change");
  machine_->SetLimits(limits);
}

void SimDaemon::Kill() {
  p_.trace.AddLine(p_.clock.now(), "daemon dies");
  machine_.reset();
  attempts_.clear();
  for (auto& [id, flight] : std::exchange(flights_, {})) {
    if (flight.row) {
      if (p_.random.Chance(0.5)) flight.row();
    } else {
      Judged(flight.op, [&, this] { p_.store.Interrupt(flight.op); });
    }
  }
  loading_.clear();
  reserved_.clear();
  members_.clear();
  kept_.clear();
  rescue_.reset();
  rescues_.clear();
  rescue_seals_.clear();
  p_.checker.OnDaemonDied();
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
  NoteMember(event);
  for (daemon::Action& action : machine_->OnEvent(event, p_.clock.now() - started_at_)) Do(std::move(action));
}

void SimDaemon::Tell(daemon::SessionId session, daemon::Action action) {
  last_delivery_ = std::max(last_delivery_, p_.clock.now() + p_.random.Between(0, 2));
  Post(last_delivery_ - p_.clock.now(),
       [this, session, action = std::move(action)] { p_.trainers.Deliver(session, action); });
}

void SimDaemon::Do(daemon::Action action) {
  p_.trace.Add(p_.clock.now(), action);
  std::visit(
      [this, &action](auto& a) {
        using A = std::decay_t<decltype(a)>;
        const auto pass_on = [this, &action](daemon::SessionId session) { Tell(session, std::move(action)); };
        if constexpr (std::is_same_v<A, daemon::AnswerOpen>) {
          for (const daemon::Verdict& verdict : a.unsettled) p_.checker.OnVerdict(verdict);
          OnOpened(a);
          pass_on(a.session);
        } else if constexpr (std::is_same_v<A, daemon::AnswerSave>) {
          p_.checker.OnVerdict(a.status);
          for (const daemon::Verdict& verdict : a.earlier) p_.checker.OnVerdict(verdict);
          pass_on(a.session);
        } else if constexpr (std::is_same_v<A, daemon::Report>) {
          p_.checker.OnVerdict(a.status);
          decided_ += a.status.state >= daemon::SaveState::kCommitted;
          OnRescueReport(a.session, a.status);
          pass_on(a.session);
        } else if constexpr (std::is_same_v<A, daemon::AnswerLoad>) {
          OnLoadAnswered(a);
          pass_on(a.session);
        } else if constexpr (std::is_same_v<A, daemon::CloseSession>) {
          OnClosed(a.session);
          pass_on(a.session);
        } else if constexpr (std::is_same_v<A, daemon::MoveSession> || std::is_same_v<A, daemon::Release>) {
          pass_on(a.session);
        } else if constexpr (std::is_same_v<A, daemon::RescueStarted>) {
          OnRescueStarted(a);
        } else if constexpr (std::is_same_v<A, daemon::RescueRefused>) {
          Post(0, [this] { EndRescue(); });
        } else if constexpr (std::is_same_v<A, daemon::ReserveAttempt>) {
          OnReserve(a);
        } else if constexpr (std::is_same_v<A, daemon::ReleaseAttempt>) {
          reserved_.erase(a.attempt);
        } else if constexpr (std::is_same_v<A, daemon::MakePlan>) {
          AttemptOf(a.attempt).step = a.step;
          absl::Status status;
          if (p_.random.Chance(faults_.error)) status = absl::FailedPreconditionError("holes");
          if (p_.random.Chance(faults_.no_space)) {
            status = absl::ResourceExhaustedError("no room");
            status.SetPayload(daemon::kReasonPayload, absl::Cord("DISK_FULL"));
          }
          Post(p_.random.Between(0, 5), [this, attempt = a.attempt, status] {
            Feed(daemon::PlanMade{attempt, status});
          });
        } else if constexpr (std::is_same_v<A, daemon::StartRank>) {
          AttemptOf(a.attempt).shares[a.rank].start = a;
          if (mutation_ == Mutation::kReleaseBeforeCopied) {
            Tell(a.session, daemon::Release{.session = a.session, .number = a.number, .all_groups = true});
          }
          if (mutation_ != Mutation::kSkipJournal && !journal_.contains(a.attempt)) {
            p_.checker.Broken(absl::StrCat(a.attempt, " starts without a journal entry"));
          }
          CopyNext(AttemptOf(a.attempt), a.rank, 0);
        } else if constexpr (std::is_same_v<A, daemon::WritePart>) {
          WritePart(AttemptOf(a.attempt));
        } else if constexpr (std::is_same_v<A, daemon::StopIo>) {
          if (mutation_ == Mutation::kEraseJournalFirst) journal_.erase(a.attempt);
          StopIo(AttemptOf(a.attempt));
        } else if constexpr (std::is_same_v<A, daemon::DoStore>) {
          OnDoStore(std::move(a));
        } else if constexpr (std::is_same_v<A, daemon::PutJournal>) {
          Catalog(a.op, [this, entry = a.entry] {
            if (mutation_ != Mutation::kSkipJournal) journal_[entry.attempt] = entry;
          });
        } else if constexpr (std::is_same_v<A, daemon::EraseJournal>) {
          Catalog(a.op, [this, attempt = a.attempt] { journal_.erase(attempt); });
        } else if constexpr (std::is_same_v<A, daemon::PutRoster>) {
          Catalog(a.op, [this, a] { roster_ = a, roster_known_ = true; });
          p_.checker.OnPolicy(a.epoch, a.retention);
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
    StoreResult result;
    Judged(op, [&] { result = p_.store.Run(op); });
    then(std::move(result));
  });
}

void SimDaemon::OnDoStore(daemon::DoStore action) {
  StoreOp& op = action.what;
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
    RunStore(std::move(op), 40, [](StoreResult) {});
    return;
  }
  if (mutation_ == Mutation::kForgetDeleting && publish && absl::EndsWith(op.path, "/DELETING")) {
    p_.checker.OnCondemn(op.path, loading_);
    Post(1, [this, id = action.op] { Feed(daemon::StoreDone{id, {}}); });
    return;
  }
  if (mutation_ == Mutation::kDeleteLastGood && publish && absl::EndsWith(op.path, "/DELETING")) {
    StoreOp another = op;
    another.path = p_.checker.NewestCommit() + "/DELETING";
    RunStore(std::move(another), 0, [](StoreResult) {});
  }
  const bool blind = mutation_ == Mutation::kIgnorePins && op.kind == StoreOp::Kind::kList &&
                     absl::EndsWith(op.path, "/pins");
  RunStore(std::move(op), 0, [this, id = action.op, blind](StoreResult result) {
    if (blind) result.blobs.clear();
    Feed(daemon::StoreDone{id, std::move(result)});
  });
}

bool SimDaemon::Hold(const std::string& attempt, int64_t for_ms) {
  if (reserved_.contains(attempt)) return false;
  loading_.insert(attempt);
  Post(for_ms, [this, attempt] { loading_.erase(loading_.find(attempt)); });
  return true;
}

void SimDaemon::Read(const std::string& attempt) { Hold(attempt, p_.random.Between(20, 2'000)); }

// A load goes on for a while after its answer; nothing of it may be deleted meanwhile.
void SimDaemon::OnLoadAnswered(daemon::AnswerLoad& answer) {
  if (!answer.found || Hold(answer.attempt, p_.random.Between(2, 60))) return;
  answer.found = false;
  answer.failure = {.code = absl::StatusCode::kNotFound, .reason = "UNKNOWN_CHECKPOINT"};
}

void SimDaemon::OnReserve(const daemon::ReserveAttempt& action) {
  const bool read = loading_.contains(action.attempt) && mutation_ != Mutation::kIgnoreReaders;
  if (!read) reserved_.insert(action.attempt);
  Post(p_.random.Between(0, 2), [this, op = action.op, read] {
    Feed(
        daemon::CatalogDone{op, read ? absl::FailedPreconditionError("it is being read") : absl::OkStatus()});
  });
}

void SimDaemon::Pin(int64_t step, const std::string& id) {
  StoreOp publish{.kind = StoreOp::Kind::kPublish,
                  .path = absl::StrCat(storage::PinsPath(step), "/", id),
                  .bytes = storage::EncodeMarker({})};
  RunStore(std::move(publish), 0, [this, step, id](StoreResult result) {
    if (!result.status.ok()) return;  // it may be there: that keeps the step, but nobody was told so
    Post(p_.random.Between(0, 3), [this, step, id] {
      if (p_.checker.HasCommit(step)) {
        p_.checker.OnPinned(step);
      } else {
        RunStore({.kind = StoreOp::Kind::kDelete, .path = absl::StrCat(storage::PinsPath(step), "/", id)}, 0,
                 [](StoreResult) {});
      }
    });
  });
}

}  // namespace keepstep::sim
