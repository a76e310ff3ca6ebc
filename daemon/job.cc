#include "daemon/job.h"

#include <future>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/error.h"

namespace keepstep::daemon {
namespace {

constexpr std::chrono::seconds kWishLimit(60);

uint64_t FreshSeed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

std::shared_ptr<Job> Job::Start(const JobServices& services, JobIdentity identity,
                                std::shared_ptr<storage::BlobStore> store) {
  std::shared_ptr<Job> job(new Job(services, std::move(identity), std::move(store)));
  job->ReadCatalog();
  return job;
}

Job::Job(const JobServices& services, JobIdentity identity, std::shared_ptr<storage::BlobStore> store)
    : services_(services),
      identity_(std::move(identity)),
      store_(std::move(store)),
      strand_(services.logic),
      machine_(services.limits, FreshSeed(), UnixMs()),
      quota_bytes_(services.quota_bytes),
      meter_(services.metrics) {}

Job::~Job() = default;

Millis Job::Now() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - origin_).count();
}

void Job::Post(std::function<void(Job&)> task) {
  strand_.Post([weak = weak_from_this(), task = std::move(task)] {
    if (auto self = weak.lock()) task(*self);
  });
}

void Job::ReadCatalog() {
  services_.io->Submit([self = shared_from_this()] {
    JobStarted started;
    const std::string& path = self->identity_.path;
    auto roster = self->services_.catalog->Roster(path);
    if (roster.ok() && roster->has_value() && self->services_.trust_rosters) {
      started.roster_known = true;
      started.epoch = (*roster)->epoch;
      started.world_size = (*roster)->world_size;
      started.retention = {.keep_last = (*roster)->keep_last, .keep_every = (*roster)->keep_every};
      for (const auto& member : (*roster)->members) started.roster.push_back({member.rank, member.nonce});
    }
    if (auto known = self->services_.catalog->ListCheckpoints(path); known.ok() && !known->empty())
      self->last_commit_unix_ms_ = known->back().decision.time_unix_ms();
    auto journal = self->services_.catalog->Journal();
    if (journal.ok()) {
      for (const auto& row : *journal) {
        if (row.job == path) started.journal.push_back({row.attempt, row.step, row.epoch, row.collected});
      }
    } else {
      self->services_.log->Warn(
          "The journal cannot be read; saves in flight stay undecided until the next run claims the job.",
          {{"job", self->label()}, {"error", std::string(journal.status().message())}});
    }
    self->Post([started = std::move(started)](Job& job) {
      if (job.stopped_) return;
      job.started_ = true;
      job.Feed(started);
      for (Event& event : std::exchange(job.before_start_, {})) job.Feed(std::move(event));
    });
  });
}

void Job::Feed(Event event) {
  if (stopped_) return;
  if (!started_) {
    before_start_.push_back(std::move(event));
    return;
  }
  events_.push_back(std::move(event));
  if (std::exchange(feeding_, true)) return;
  while (!events_.empty()) {
    const Event next = std::move(events_.front());
    events_.pop_front();
    meter_.Saw(next, Clock::now());
    for (const Action& action : machine_.OnEvent(next, Now())) {
      meter_.Saw(action, Clock::now());
      Carry(action);
    }
  }
  feeding_ = false;
  if (recovering_) recovering_ = machine_.Snapshot().recovering;
}

Job::Member* Job::Find(SessionId session) {
  auto found = members_.find(session);
  return found == members_.end() ? nullptr : &found->second;
}

AttemptIo* Job::FindAttempt(const std::string& attempt) {
  auto found = attempts_.find(attempt);
  return found == attempts_.end() ? nullptr : found->second.get();
}

ShareProgress Job::ProgressOf(const Member& member, const Verdict& verdict) {
  AttemptIo* attempt = FindAttempt(verdict.attempt);
  return attempt == nullptr ? ShareProgress{} : attempt->ProgressOf(member.rank);
}

// ---- sessions
// -----------------------------------------------------------------------------------------------------

void Job::Open(std::shared_ptr<ClientSession> session, const SessionOpened& opened,
               std::function<void(const AnswerOpen&, std::vector<v1::SaveStatus>)> done, Listener listener) {
  Post([session = std::move(session), opened, done = std::move(done),
        listener = std::move(listener)](Job& job) {
    Member& member = job.members_[opened.session];
    member.session = session;
    member.rank = opened.rank;
    member.saves_issued = opened.saves_issued;
    member.opened = done;
    member.listener = listener;
    job.Feed(opened);
  });
}

void Job::SessionGone(SessionId session, bool dead) {
  Post([session, dead](Job& job) {
    const absl::Status over =
        MakeError(absl::StatusCode::kAborted, "SESSION_OVER", "The session's process has ended.");
    if (job.Find(session) == nullptr) {
      job.services_.end_session(session, over);  // it never came to be open, or is closed already
      return;
    }
    if (job.Find(session)->kept) return;  // its process is known to be dead
    if (!dead) {
      job.Feed(SessionLost{session});
      return;
    }
    const int32_t rank = job.Find(session)->rank;
    job.Bury(session);
    job.EndRescue(absl::StrCat("rank ", rank, ": its session had ended, or was granted no crash flush"));
  });
}

void Job::Bury(SessionId session) {
  LookAtVerdicts(session, *Find(session));  // what it sealed on its way out counts
  Feed(SessionDead{session});
  Member* member = Find(session);
  if (member == nullptr) return;
  auto rank = ranks_.find(member->rank);
  if (rank != ranks_.end() && rank->second == session) ranks_.erase(rank);
  SawRank(member->rank, member->session->peer().pid, /*open=*/false);
  tracker_.Forget(session, MakeError(absl::StatusCode::kAborted, "SESSION_OVER", "The session's process has ended."));
  members_.erase(session);
}

void Job::Registered(SessionId session, uint64_t generation, std::string fingerprint) {
  Post([=](Job& job) { job.Feed(daemon::Registered{session, generation, fingerprint}); });
}

void Job::LookAtVerdicts(SessionId session) {
  Post([session](Job& job) {
    Member* member = job.Find(session);
    if (member == nullptr) return;
    member->session->NoticeTaken();
    job.LookAtVerdicts(session, *member);
  });
}

void Job::LookAtVerdicts(SessionId id, Member& member) {
  std::vector<VerdictSeen> seen;
  for (uint64_t number : member.unsealed) {
    const proto::Verdict verdict = member.session->pages().VerdictOf(number);
    if (verdict == proto::Verdict::kSealed || verdict == proto::Verdict::kPoisoned) {
      seen.push_back({id, number, verdict == proto::Verdict::kSealed});
    }
  }
  for (const VerdictSeen& one : seen) member.unsealed.erase(one.number);
  for (const VerdictSeen& one : seen) Feed(one);
}

// ---- saves
// --------------------------------------------------------------------------------------------------------

void Job::Save(SessionId session, SaveArgs args, std::function<void(absl::StatusOr<v1::SaveResponse>)> done) {
  strand_.Dispatch([session, args = std::move(args), done = std::move(done), weak = weak_from_this()] {
    const std::shared_ptr<Job> self = weak.lock();
    if (self == nullptr) return;
    Job& job = *self;
    Member* member = job.Find(session);
    if (member == nullptr || !member->open) {
      done(MakeError(absl::StatusCode::kAborted, "SESSION_OVER", "The session is over. Open a new one.",
                     "accept"));
      return;
    }
    const SaveRequested event{session, args.number, args.step, args.registration->generation, args.policy};
    member->answers.emplace(args.number, done);
    member->unsealed.insert(args.number);
    member->saves.try_emplace(args.number, args);
    job.Feed(event);
  });
}

void Job::Wait(SessionId session, uint64_t number, int64_t step, SaveState state,
               std::function<void(uint64_t)> ticket, SaveTracker::WaitDone done) {
  Post([=](Job& job) {
    const uint64_t got = number != 0 ? job.tracker_.Wait(session, number, state, done)
                                     : job.tracker_.WaitForStep(session, step, state, done);
    if (got != 0) ticket(got);
  });
}

void Job::StopWaiting(uint64_t ticket) {
  Post([ticket](Job& job) { job.tracker_.Unwait(ticket); });
}

void Job::Watch(SessionId session, SaveTracker::Watcher watcher, std::function<void(uint64_t)> ticket) {
  Post([=](Job& job) { ticket(job.tracker_.Watch(session, watcher)); });
}

void Job::StopWatching(uint64_t ticket) {
  Post([ticket](Job& job) { job.tracker_.Unwatch(ticket); });
}

// ---- others
// -------------------------------------------------------------------------------------------------------

void Job::ResolveLoad(SessionId session, bool latest, int64_t step,
                      std::function<void(const AnswerLoad&)> done) {
  Post([=](Job& job) {
    if (job.Find(session) == nullptr) {
      AnswerLoad over;
      over.failure = ToFailure(
          MakeError(absl::StatusCode::kAborted, "SESSION_OVER", "The session is over. Open a new one."));
      done(over);
      return;
    }
    const uint64_t ticket = job.next_ticket_++;
    job.loads_[ticket] = done;
    job.Feed(LoadRequested{session, ticket, latest, step});
  });
}

void Job::Cancel(int64_t step, std::function<void(int32_t)> done) {
  Post([=](Job& job) {
    const uint64_t ticket = job.next_ticket_++;
    job.cancels_[ticket] = done;
    job.Feed(CancelRequested{ticket, step});
  });
}

void Job::Collect(CollectRequested request, std::function<void(const AnswerCollect&)> done) {
  Post([request, done = std::move(done)](Job& job) mutable {
    request.ticket = job.next_ticket_++;
    job.collects_[request.ticket] = std::move(done);
    job.Feed(request);
  });
}

void Job::FinishDeletions() {
  Post([](Job& job) { job.Feed(DeletionCut{}); });
}

void Job::WishSave(std::function<void(absl::StatusOr<int64_t>)> done) {
  Post([=](Job& job) {
    job.wishes_.emplace_back(Clock::now() + kWishLimit, done);
    job.Feed(SaveWished{});
    job.EverySecond();
  });
}

void Job::Drain(std::function<void(int32_t)> done) {
  Post([=](Job& job) {
    job.drains_.push_back(done);
    job.Feed(DrainRequested{});
  });
}

void Job::Tick() {
  Post([](Job& job) {
    job.LookAtAllVerdicts();
    job.Feed(daemon::Tick{});
    job.ticked_.Beat();
    if (Clock::now() - job.last_second_ < std::chrono::seconds(1)) return;
    job.last_second_ = Clock::now();
    job.EverySecond();
  });
}

void Job::SetLimits(const Limits& limits, int64_t quota_bytes) {
  quota_bytes_ = quota_bytes;
  Post([limits](Job& job) { job.machine_.SetLimits(limits); });
}

void Job::LookAtAllVerdicts() {
  std::vector<SessionId> sessions;  // what is fed may change the members
  for (const auto& [id, member] : members_) sessions.push_back(id);
  for (SessionId id : sessions) {
    if (Member* member = Find(id)) LookAtVerdicts(id, *member);
  }
}

bool Job::IsUnused() const {
  return started_ && !recovering_ && members_.empty() && attempts_.empty() && loads_.empty() && cancels_.empty() &&
         collects_.empty() && wishes_.empty() && drains_.empty();
}

void Job::EverySecond() {
  unused_ = IsUnused();
  StepsSeen steps;
  bool wished = false;
  LookAtHold();
  for (const auto& [rank, id] : ranks_) {
    Member* member = Find(id);
    if (member == nullptr) continue;
    steps.stepped.push_back(member->session->pages().step_stored());
    if (!member->wished && member->session->pages().wishes_save()) member->wished = wished = true;
  }
  if (wished) Feed(SaveWished{});
  std::vector<std::string> moved;
  for (auto& [attempt, io] : attempts_) {
    if (io->Progressed()) moved.push_back(attempt);
  }
  for (const std::string& attempt : moved) Feed(SaveProgressed{attempt});
  if (!steps.stepped.empty()) Feed(steps);
  for (auto it = wishes_.begin(); it != wishes_.end();) {
    if (it->first > Clock::now()) {
      ++it;
      continue;
    }
    it->second(MakeError(
        absl::StatusCode::kUnavailable, "NO_COMMON_STEP",
        "Some rank has not asked should_save yet. Is the job training, and does every rank call it?"));
    it = wishes_.erase(it);
  }
}

void Job::CountDirectSave(const absl::Status& outcome, int64_t bytes) {
  if (outcome.ok()) last_commit_unix_ms_ = UnixMs();
  if (services_.metrics == nullptr) return;
  services_.metrics->SaveOver(outcome.ok() ? "committed" : "failed", outcome.ok() ? "" : ReasonOf(outcome));
  if (outcome.ok()) services_.metrics->saved_bytes->Increment(static_cast<double>(bytes));
}

// Their calls are over; what would answer them holds sessions, which hold this job.
void Job::ForgetCallers() {
  tracker_ = {};
  loads_.clear();
  cancels_.clear();
  collects_.clear();
  wishes_.clear();
  drains_.clear();
}

void Job::LetGo() {
  Post([](Job& job) { job.stopped_ = true; });
}

void Job::Stop() {
  auto promise = std::make_shared<std::promise<std::map<std::string, std::shared_ptr<AttemptIo>>>>();
  auto future = promise->get_future();
  strand_.Post([self = shared_from_this(), promise] {
    self->stopped_ = true;  // nothing more is decided here
    self->members_.clear();
    self->ranks_.clear();
    self->ForgetCallers();
    promise->set_value(std::exchange(self->attempts_, {}));
  });
  for (auto& [attempt, io] : future.get()) {
    io->cancellation().Cancel(absl::CancelledError("The daemon stops."));
    io = nullptr;  // waits for its pipelines
  }
}

}  // namespace keepstep::daemon
