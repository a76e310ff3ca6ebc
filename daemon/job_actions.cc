// What a job does about each action of its machine. Nothing here decides anything.

#include <chrono>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "daemon/error.h"
#include "daemon/job.h"
#include "daemon/room.h"
#include "daemon/version.h"
#include "proto/convert.h"
#include "storage/attempt.h"
#include "storage/checkpoint_reader.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kLoggedKept = 256;

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// `part` and its digest: what this process has published of it, if it has.
absl::Status IndexCommit(storage::BlobStore& store, storage::Catalog& catalog, const std::string& job,
                         int64_t step, const std::string& attempt, const v1::Part* part,
                         const std::string& part_digest) {
  const auto id = storage::ParseAttempt(attempt);
  if (!id.has_value()) return absl::InternalError(absl::StrCat(attempt, " is no attempt"));
  if (part != nullptr) {
    auto decision = storage::ReadDecision(store, step, *id);
    if (decision.ok() && decision->kind() == v1::Decision::COMMIT && decision->parts_size() == 1 &&
        decision->parts(0).digest() == part_digest) {
      return catalog.RecordCommit(job, *decision, absl::MakeConstSpan(part, 1));
    }
  }
  auto manifest = storage::LoadManifest(store, step, *id);
  if (!manifest.ok()) return manifest.status();
  return catalog.RecordCommit(job, manifest->decision, manifest->parts);
}

}  // namespace

void Job::Carry(const Action& action) {
  std::visit([this](const auto& one) { Do(one); }, action);
}

// ---- sessions
// -----------------------------------------------------------------------------------------------------

void Job::Do(const AnswerOpen& action) {
  Member* member = Find(action.session);
  if (member == nullptr || member->opened == nullptr) return;
  auto opened = std::exchange(member->opened, nullptr);
  if (action.failure.code != absl::StatusCode::kOk) {
    members_.erase(action.session);
    opened(action, {});
    services_.end_session(action.session, FromFailure(action.failure));
    return;
  }
  member->open = true;
  member->session->SetEpoch(action.epoch);
  rescue_told_ = false;
  auto [rank, joined] = ranks_.try_emplace(member->rank, action.session);
  if (!joined && rank->second != action.session) {
    const SessionId before = std::exchange(rank->second, action.session);
    const absl::Status why =
        MakeError(absl::StatusCode::kAborted, "SESSION_OVER", "The rank has opened a newer session.");
    tracker_.Forget(before, why);
    members_.erase(before);  // and its memory with it, if that was kept
    services_.end_session(before, why);
  }
  SawRank(member->rank, member->session->peer().pid, /*open=*/true);
  member->session->pages().ReleaseAll(member->saves_issued);
  if (save_at_ >= 0) member->session->pages().SetSaveAt(save_at_);
  std::vector<v1::SaveStatus> unsettled;
  for (const Verdict& verdict : action.unsettled) {
    tracker_.Update(action.session, verdict, ProgressOf(*member, verdict));
    member->session->pages().SetState(verdict.number, verdict.state);
    if (!IsOver(verdict.state)) member->unsealed.insert(verdict.number);
    unsettled.push_back(tracker_.Status(action.session, verdict, ProgressOf(*member, verdict)));
  }
  services_.log->Info("session open", {{"job", label()},
                                       {"rank", absl::StrCat(member->rank)},
                                       {"epoch", absl::StrCat(action.epoch)},
                                       {"pid", absl::StrCat(member->session->peer().pid)}});
  opened(action, std::move(unsettled));
}

void Job::Do(const MoveSession& action) {
  Member* member = Find(action.session);
  if (member == nullptr) return;
  member->session->SetEpoch(action.epoch);
  if (member->listener) member->listener(action);
}

void Job::Do(const CloseSession& action) {
  Member* member = Find(action.session);
  if (member == nullptr) return;
  services_.log->Info("session closed", {{"job", label()},
                                         {"rank", absl::StrCat(member->rank)},
                                         {"reason", action.failure.reason},
                                         {"why", action.failure.message}});
  SawRank(member->rank, member->session->peer().pid, /*open=*/false);
  Listener listener = std::move(member->listener);
  auto opened = std::move(member->opened);
  std::vector<std::function<void(absl::StatusOr<v1::SaveResponse>)>> answers;
  for (auto& [number, answer] : member->answers) answers.push_back(std::move(answer));
  auto rank = ranks_.find(member->rank);
  if (rank != ranks_.end() && rank->second == action.session) ranks_.erase(rank);
  const bool was_kept = member->kept.has_value();
  members_.erase(action.session);
  if (was_kept) Post([](Job& job) { job.EndRescue("a new run had claimed the job"); });

  absl::Status why = FromFailure(action.failure);
  if (why.ok()) why = MakeError(absl::StatusCode::kAborted, "SESSION_OVER", "The session is over.");
  if (opened) opened(AnswerOpen{.session = action.session, .failure = ToFailure(why)}, {});
  for (auto& answer : answers) answer(why);
  tracker_.Forget(action.session, why);
  if (listener) listener(action);
  services_.end_session(action.session, why);
}

void Job::Do(const AnswerLoad& action) {
  auto found = loads_.find(action.ticket);
  if (found == loads_.end()) return;
  auto done = std::move(found->second);
  loads_.erase(found);
  done(action);
}

void Job::Do(const AnswerCancel& action) {
  auto found = cancels_.find(action.ticket);
  if (found == cancels_.end()) return;
  auto done = std::move(found->second);
  cancels_.erase(found);
  done(action.cancelled);
}

void Job::Do(const SetSaveAt& action) {
  save_at_ = action.step;
  for (const auto& [rank, session] : ranks_) {
    if (Member* member = Find(session)) member->session->pages().SetSaveAt(action.step);
  }
  for (auto& [limit, done] : std::exchange(wishes_, {})) done(action.step);
}

void Job::Do(const Drained& action) {
  for (auto& done : std::exchange(drains_, {})) done(action.undecided);
}

// ---- saves
// --------------------------------------------------------------------------------------------------------

void Job::Do(const AnswerSave& action) {
  Member* member = Find(action.session);
  if (member == nullptr) return;
  tracker_.Update(action.session, action.status, ProgressOf(*member, action.status));
  v1::SaveResponse response;
  *response.mutable_status() =
      tracker_.Status(action.session, action.status, ProgressOf(*member, action.status));
  for (const Verdict& verdict : action.earlier)
    *response.add_verdicts() = tracker_.Status(action.session, verdict, {});
  member->session->pages().SetState(action.number, action.status.state);
  const auto [begin, end] = member->answers.equal_range(action.number);
  std::vector<std::function<void(absl::StatusOr<v1::SaveResponse>)>> answers;
  for (auto it = begin; it != end; ++it) answers.push_back(std::move(it->second));
  member->answers.erase(begin, end);
  if (IsOver(action.status.state)) {
    member->saves.erase(action.number);
    member->unsealed.erase(action.number);
    LogOutcome(action.status);
  }
  for (auto& answer : answers) answer(response);
}

void Job::Do(const Report& action) {
  LogOutcome(action.status);
  Member* member = Find(action.session);
  if (member == nullptr) return;
  member->session->pages().SetState(action.status.number, action.status.state);
  tracker_.Update(action.session, action.status, ProgressOf(*member, action.status));
  if (member->kept && rescue_ && rescue_->number == action.status.number)
    OnRescueReport(action.session, *member, action.status);
  if (!IsOver(action.status.state)) return;
  member->saves.erase(action.status.number);
  member->unsealed.erase(action.status.number);
}

void Job::Do(const Release& action) {
  Member* member = Find(action.session);
  if (member == nullptr) return;
  if (action.all_groups) {
    member->session->pages().ReleaseAll(action.number);
  } else {
    member->session->pages().Release(action.number, action.group);
  }
}

void Job::Do(const MakePlan& action) {
  auto found = attempts_.find(action.attempt);
  if (found == attempts_.end()) return;
  std::vector<PlanRank> ranks;
  for (const auto& [rank, id] : ranks_) {
    Member* member = Find(id);
    auto registration = member == nullptr ? nullptr : member->session->registration();
    if (registration == nullptr) {
      Feed(PlanMade{action.attempt,
                    MakeError(absl::StatusCode::kFailedPrecondition, "NOT_REGISTERED",
                              absl::StrCat("Rank ", rank, " has registered nothing."), "plan", rank)});
      return;
    }
    // The newest save's: replicas are compared as this save finds them.
    const std::vector<Fence> fences =
        member->saves.empty() ? std::vector<Fence>() : member->saves.rbegin()->second.fences;
    std::shared_ptr<MemoryPort> port = member->kept ? member->kept->judged.args.port : nullptr;
    if (port == nullptr) port = member->session->port(registration, fences);
    ranks.push_back({std::move(registration), std::move(port)});
  }
  services_.io->Submit([self = shared_from_this(), ranks = std::move(ranks), action,
                        cancel = found->second->shared_cancellation()] {
    auto plan = self->plans_.Get(ranks, action.first, *cancel);
    if (plan.ok()) {
      int64_t bytes = 0;
      for (const reshard::BlobPlan& blob : (*plan)->blobs) bytes += blob.size_bytes;
      const absl::Status room = CheckRoom(*self->store_, self->label(), bytes, self->quota_bytes_);
      if (!room.ok()) plan = room;
    }
    self->Post([action, plan = std::move(plan)](Job& job) {
      if (plan.ok()) {
        job.plan_ = *plan;
        if (AttemptIo* attempt = job.FindAttempt(action.attempt)) attempt->SetPlan(*plan);
      }
      job.Feed(PlanMade{action.attempt, plan.status()});
    });
  });
}

void Job::Do(const StartRank& action) {
  AttemptIo* attempt = FindAttempt(action.attempt);
  Member* member = Find(action.session);
  if (attempt == nullptr) return;
  if (attempt->plan() == nullptr && plan_ != nullptr) attempt->SetPlan(plan_);
  const auto save = member == nullptr ? decltype(member->saves.begin()){} : member->saves.find(action.number);
  if (member == nullptr || save == member->saves.end() || attempt->plan() == nullptr) {
    Feed(RankIoFailed{action.attempt, action.rank, "copy",
                      MakeError(absl::StatusCode::kAborted, "SESSION_OVER",
                                "The rank's session ended before it was copied.")});
    return;
  }
  const auto membership = member->session->membership();
  attempt->StartRank(action.rank, member->session, membership.has_value() ? membership->world_size : 1,
                     save->second);
}

void Job::Do(const WritePart& action) {
  AttemptIo* attempt = FindAttempt(action.attempt);
  if (attempt == nullptr) return;
  v1::Decision intent;
  intent.set_time_unix_ms(UnixMs());
  intent.set_writer(absl::StrCat("keepstepd ", kVersion));
  intent.set_world_size(machine_.Snapshot().world_size);
  for (const auto& [rank, id] : ranks_) {
    Member* member = Find(id);
    const auto membership = member == nullptr ? std::nullopt : member->session->membership();
    if (!membership.has_value()) continue;
    *intent.mutable_mesh() = proto::ToProto(membership->mesh);
    break;
  }
  attempt->WritePart(std::move(intent));
}

void Job::Do(const StopIo& action) {
  if (AttemptIo* attempt = FindAttempt(action.attempt)) {
    attempt->Stop();
  } else {
    Feed(IoStopped{action.attempt});
  }
}

// ---- storage and catalog
// ------------------------------------------------------------------------------------------

void Job::Do(const DoStore& action) {
  services_.io->Submit([self = shared_from_this(), action] {
    storage::StoreResult result = storage::RunStoreOp(*self->store_, action.what);
    self->Post([op = action.op, result = std::move(result)](Job& job) { job.Feed(StoreDone{op, result}); });
  });
}

void Job::OnCatalog(uint64_t op, std::function<absl::Status()> work) {
  services_.io->Submit([self = shared_from_this(), op, work = std::move(work)] {
    absl::Status status = work();
    self->Post([op, status = std::move(status)](Job& job) { job.Feed(CatalogDone{op, status}); });
  });
}

void Job::Do(const PutJournal& action) {
  if (action.entry.collected) {
    OnCatalog(action.op, [this, self = shared_from_this(), entry = action.entry] {
      return services_.catalog->PutJournal(
          {identity_.path, entry.attempt, entry.step, entry.epoch, entry.collected});
    });
    return;
  }
  AttemptIo::Context context{
      .plane = services_.plane, .io = services_.io, .store = store_, .cache_prefix = cache_prefix()};
  context.on_strand = [weak = weak_from_this()](std::function<void()> task) {
    if (auto self = weak.lock()) self->Post([task = std::move(task)](Job&) { task(); });
  };
  context.feed = [this](Event event) { Feed(std::move(event)); };  // attempts live in this object
  attempts_[action.entry.attempt] = std::make_shared<AttemptIo>(std::move(context), action.entry);
  OnCatalog(action.op, [this, self = shared_from_this(), entry = action.entry] {
    return services_.catalog->PutJournal({identity_.path, entry.attempt, entry.step, entry.epoch, false});
  });
}

void Job::Do(const EraseJournal& action) {
  attempts_.erase(action.attempt);
  OnCatalog(action.op, [this, self = shared_from_this(), attempt = action.attempt] {
    return services_.catalog->EraseJournal(identity_.path, attempt);
  });
}

void Job::Do(const PutRoster& action) {
  storage::CatalogRoster roster{.epoch = action.epoch, .world_size = action.world_size};
  roster.keep_last = action.retention.keep_last;
  roster.keep_every = action.retention.keep_every;
  for (const RosterEntry& entry : action.roster) roster.members.push_back({entry.rank, entry.nonce});
  OnCatalog(action.op, [this, self = shared_from_this(), roster = std::move(roster)] {
    return services_.catalog->PutRoster(identity_.path, roster);
  });
}

void Job::Do(const RecordCommit& action) {
  AttemptIo* attempt = FindAttempt(action.attempt);
  meter_.Committed(action.attempt, attempt == nullptr ? 0 : attempt->TotalProgress().bytes_total, Clock::now());
  last_commit_unix_ms_ = UnixMs();
  std::shared_ptr<const v1::Part> part = attempt == nullptr ? nullptr : attempt->TakePart();
  std::string digest = attempt == nullptr ? "" : attempt->part_digest();
  OnCatalog(action.op, [this, self = shared_from_this(), action, part = std::move(part), digest] {
    absl::Status status = IndexCommit(*store_, *services_.catalog, identity_.path, action.step,
                                      action.attempt, part.get(), digest);
    if (!status.ok()) {
      services_.log->Warn(
          "A commit is not in the catalog; storage has it, and reindex mends it.",
          {{"job", label()}, {"step", absl::StrCat(action.step)}, {"error", std::string(status.message())}});
    }
    return status;
  });
}

void Job::Do(const ReserveAttempt& action) {
  const bool reserved = services_.leases->Reserve(LeaseKey(action.attempt));
  Feed(CatalogDone{action.op,
                   reserved ? absl::OkStatus() : absl::FailedPreconditionError("it is being read")});
}

void Job::Do(const ReleaseAttempt& action) {
  services_.io->Submit([self = shared_from_this(), action] {  // a cache may be waiting for storage
    self->services_.forget_checkpoint(*self, action.attempt);
    self->services_.plane->cache().Invalidate(
        absl::StrCat(self->cache_prefix(), storage::AttemptDir(action.step, action.attempt)));
    self->services_.leases->Release(self->LeaseKey(action.attempt));
  });
}

void Job::Do(const AnswerCollect& action) {
  auto found = collects_.find(action.ticket);
  if (found == collects_.end()) return;
  auto done = std::move(found->second);
  collects_.erase(found);
  done(action);
}

void Job::Do(const RecordGone& action) {
  if (!action.why.empty()) {
    services_.log->Info(
        absl::StrCat(label(), "/", action.step, " deleted: ", action.why, "; ", HumanBytes(action.bytes)),
        {{"job", label()}, {"step", absl::StrCat(action.step)}, {"attempt", action.attempt}});
  }
  OnCatalog(action.op, [this, self = shared_from_this(), action] {
    return services_.catalog->RecordGone(identity_.path, action.step, action.attempt);
  });
}

// ---- the log
// ------------------------------------------------------------------------------------------------------

void Job::LogOutcome(const Verdict& verdict) {
  if (!IsOver(verdict.state)) return;
  const std::string key = verdict.attempt.empty() ? absl::StrCat("#", verdict.number) : verdict.attempt;
  if (!logged_.emplace(verdict.step, key).second) return;
  if (logged_.size() > kLoggedKept) logged_.erase(logged_.begin());
  const std::string name = absl::StrCat(label(), "/", verdict.step);
  meter_.Over(verdict);
  AttemptIo* attempt = FindAttempt(verdict.attempt);
  KeepOutcome(verdict, attempt);
  if (verdict.state == SaveState::kCommitted) {
    const double seconds =
        attempt == nullptr ? 0 : std::chrono::duration<double>(Clock::now() - attempt->started()).count();
    const int64_t bytes = attempt == nullptr ? 0 : attempt->TotalProgress().bytes_total;
    services_.log->Info(
        absl::StrFormat("%s committed, %s in %.1f s", name, HumanBytes(bytes), seconds),
        {{"job", label()}, {"step", absl::StrCat(verdict.step)}, {"attempt", verdict.attempt}});
    return;
  }
  const char* what = verdict.state == SaveState::kFailed      ? "failed"
                     : verdict.state == SaveState::kSkipped   ? "skipped"
                     : verdict.state == SaveState::kCancelled ? "cancelled"
                                                              : "superseded";
  services_.log->Write(
      verdict.state == SaveState::kFailed ? Log::Level::kWarning : Log::Level::kInfo,
      absl::StrCat(name, " ", what, verdict.failure.message.empty() ? "" : ": ", verdict.failure.message),
      {{"job", label()},
       {"step", absl::StrCat(verdict.step)},
       {"attempt", verdict.attempt},
       {"rank", absl::StrCat(verdict.failure.rank)},
       {"stage", verdict.failure.stage},
       {"reason", verdict.failure.reason}});
}

}  // namespace keepstep::daemon
