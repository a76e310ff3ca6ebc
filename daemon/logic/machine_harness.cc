#include "daemon/logic/machine_harness.h"

#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/attempt.h"
#include "storage/commit.h"
#include "storage/digest.h"

namespace keepstep::daemon {

Nonce NonceOf(uint8_t byte) {
  Nonce nonce;
  nonce.fill(byte);
  return nonce;
}

MachineHarness::MachineHarness(Limits limits) : limits_(limits) {}

void MachineHarness::Start() {
  machine_ = std::make_unique<JobMachine>(limits_, seed_++, 1'700'000'000'000);
  answers_.clear();
  held_catalog_.clear();
  JobStarted started{.roster_known = roster_known,
                     .epoch = roster.epoch,
                     .world_size = roster.world_size,
                     .roster = roster.roster,
                     .retention = roster.retention};
  for (const auto& [attempt, entry] : journal) started.journal.push_back(entry);
  Feed(started);
}

void MachineHarness::Feed(const Event& event) {
  answers_.push_back(event);
  if (feeding_) return;
  feeding_ = true;
  while (!answers_.empty()) {
    const Event next = std::move(answers_.front());
    answers_.pop_front();
    for (const Action& action : machine_->OnEvent(next, now_)) {
      actions_.push_back(action);
      Carry(action);
    }
  }
  feeding_ = false;
}

void MachineHarness::Advance(Millis by) {
  const Millis until = now_ + by;
  while (now_ < until) {
    now_ += std::min<Millis>(kTickMs, until - now_);
    Feed(Tick{});
  }
}

void MachineHarness::Carry(const Action& action) {
  std::visit(
      [&](const auto& a) {
        using A = std::decay_t<decltype(a)>;
        if constexpr (std::is_same_v<A, DoStore>) {
          std::optional<storage::StoreResult> result = intercept ? intercept(a.what) : std::nullopt;
          Feed(StoreDone{a.op, result ? *std::move(result) : storage::RunStoreOp(store_, a.what)});
        } else if constexpr (std::is_same_v<A, PutJournal> || std::is_same_v<A, EraseJournal> ||
                             std::is_same_v<A, PutRoster> || std::is_same_v<A, RecordCommit> ||
                             std::is_same_v<A, RecordGone> || std::is_same_v<A, ReserveAttempt>) {
          if (hold_catalog) {
            held_catalog_.push_back(action);
          } else {
            AnswerCatalog(action);
          }
        } else if constexpr (std::is_same_v<A, MakePlan>) {
          attempts_[a.attempt].step = a.step;
          if (!hold_plans) Feed(PlanMade{a.attempt, absl::OkStatus()});
        } else if constexpr (std::is_same_v<A, StartRank>) {
          started_[a.number] = a.attempt;
          ++attempts_[a.attempt].ranks;
          const std::string path =
              absl::StrCat(storage::AttemptDir(attempts_[a.attempt].step, a.attempt), "/blob-", a.rank);
          storage::PutBlob(store_, *storage::BlobPath::Parse(path), "content").IgnoreError();
        } else if constexpr (std::is_same_v<A, daemon::StopIo>) {
          if (!hold_io_stopped) Feed(IoStopped{a.attempt});
        } else if constexpr (std::is_same_v<A, daemon::WritePart>) {
          if (!hold_parts) WritePart(a.attempt);
        }
      },
      action);
}

void MachineHarness::AnswerCatalog(const Action& action) {
  const absl::Status status = catalog_fault ? catalog_fault(action) : absl::OkStatus();
  std::visit(
      [&](const auto& a) {
        using A = std::decay_t<decltype(a)>;
        if constexpr (requires { a.op; }) {
          if (status.ok()) {
            if constexpr (std::is_same_v<A, PutJournal>) journal[a.entry.attempt] = a.entry;
            if constexpr (std::is_same_v<A, EraseJournal>) journal.erase(a.attempt);
            if constexpr (std::is_same_v<A, PutRoster>) roster = a, roster_known = true;
            if constexpr (std::is_same_v<A, RecordCommit>) catalog.push_back(a.attempt);
          }
          Feed(CatalogDone{a.op, status});
        }
      },
      action);
}

void MachineHarness::ReleaseCatalog() {
  hold_catalog = false;
  for (const Action& action : std::exchange(held_catalog_, {})) AnswerCatalog(action);
}

void MachineHarness::WritePart(const std::string& attempt) {
  v1::Part part;
  part.set_attempt(attempt);
  part.set_count(1);
  part.mutable_intent()->set_step(attempts_[attempt].step);
  part.mutable_intent()->set_attempt(attempt);
  part.mutable_intent()->set_epoch(storage::ParseAttempt(attempt)->epoch);
  for (int rank = 0; rank < attempts_[attempt].ranks; ++rank) {
    v1::Blob& blob = *part.add_blobs();
    blob.set_name(absl::StrCat("blob-", rank));
    blob.set_size_bytes(7);
    blob.set_header_digest(storage::DigestOf(absl::string_view()).ToBytes());
  }
  const auto published = storage::PublishPart(store_, attempts_[attempt].step, part);
  Feed(PartWritten{attempt, published.status(), published.ok() ? *published : storage::PartSummary()});
}

SessionId MachineHarness::Open(int32_t rank, int32_t world_size, uint8_t nonce, int64_t epoch,
                               uint64_t saves_issued) {
  const SessionId session = ++last_session_;
  Feed(SessionOpened{session, rank, world_size, NonceOf(nonce), epoch, saves_issued, retention});
  return session;
}

std::vector<SessionId> MachineHarness::OpenWorld(int32_t world_size, uint8_t nonce) {
  std::vector<SessionId> sessions;
  for (int32_t rank = 0; rank < world_size; ++rank) {
    sessions.push_back(Open(rank, world_size, static_cast<uint8_t>(nonce + rank)));
  }
  for (SessionId session : sessions) Feed(Registered{session, 1, "layout"});
  return sessions;
}

void MachineHarness::Save(SessionId session, uint64_t number, int64_t step, BusyPolicy policy) {
  Feed(SaveRequested{session, number, step, 1, policy});
}

void MachineHarness::Load(SessionId session, uint64_t ticket) { Feed(LoadRequested{session, ticket}); }

void MachineHarness::LoadStep(SessionId session, uint64_t ticket, int64_t step) {
  Feed(LoadRequested{session, ticket, false, step});
}

void MachineHarness::Copied(uint64_t number, int32_t rank) {
  Feed(GroupCopied{AttemptOf(number), rank, 0});
  Feed(RankCopied{AttemptOf(number), rank});
}

void MachineHarness::Flushed(uint64_t number, int32_t rank) { Feed(RankFlushed{AttemptOf(number), rank}); }

void MachineHarness::Finish(uint64_t number, const std::vector<SessionId>& sessions) {
  for (size_t rank = 0; rank < sessions.size(); ++rank) {
    Copied(number, static_cast<int32_t>(rank));
    Flushed(number, static_cast<int32_t>(rank));
    Sealed(sessions[rank], number);
  }
}

Verdict MachineHarness::Told(SessionId session, uint64_t number) const {
  Verdict told;
  for (const Action& action : actions_) {
    const auto* report = std::get_if<Report>(&action);
    const auto* answer = std::get_if<AnswerSave>(&action);
    if (report && report->session == session && report->status.number == number) told = report->status;
    if (answer && answer->session == session && answer->number == number) told = answer->status;
  }
  return told;
}

int MachineHarness::Position(const std::function<bool(const Action&)>& match) const {
  for (size_t i = 0; i < actions_.size(); ++i) {
    if (match(actions_[i])) return static_cast<int>(i);
  }
  return -1;
}

std::vector<std::string> MachineHarness::Files(int64_t step, const std::string& attempt) {
  std::vector<std::string> leaves;
  const auto listed = store_.List(*storage::BlobPath::Parse(storage::AttemptDir(step, attempt)));
  if (!listed.ok()) return leaves;
  for (const storage::BlobInfo& blob : *listed) leaves.emplace_back(blob.path.Leaf());
  return leaves;
}

}  // namespace keepstep::daemon
