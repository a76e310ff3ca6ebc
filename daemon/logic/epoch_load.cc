// What ranks are given to load, and where the epoch says that it went on from.
//
// Every rank of an epoch gets its LATEST, or the attempt of the step it names as older epochs left it:
// commits of the epoch itself are never loaded in it. So two ranks never restore different things, whenever
// each of them asks. A rank that has saved in this epoch and loads again waits for all others to do so;
// together they start the next epoch.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/logic/epoch_machine.h"
#include "daemon/logic/failures.h"

namespace keepstep::daemon {

void EpochMachine::OnLoad(const LoadRequested& request) {
  if (world_.Find(request.session) == nullptr) {
    RefuseLoad(request, StaleEpoch(world_.epoch));
    return;
  }
  loads_.push_back({request, outbox_.now()});
}

void EpochMachine::ProcessLoads() {
  if (!ready_ || claim_) return;
  assembled_ = assembled_ || world_.Complete();
  if (!assembled_) return;
  for (auto load = loads_.begin(); load != loads_.end();) {
    Session* session = world_.Find(load->request.session);
    if (session == nullptr || session->saved || load->finding) {
      ++load;
      continue;
    }
    if (load->request.latest) {
      const LoadRequested request = load->request;
      load = loads_.erase(load);
      AnswerLoadWith(request, *latest_);
      continue;
    }
    FindStep(*load);
    ++load;
  }
  LoadAgain();
}

void EpochMachine::LoadAgain() {
  std::vector<bool> asks(world_.size);
  bool saved = false, differ = false;
  for (const Load& load : loads_) {
    Session* session = world_.Find(load.request.session);
    if (session == nullptr) continue;
    asks[session->rank] = true;
    saved = saved || session->saved;
    const LoadRequested& first = loads_.front().request;
    differ =
        differ || load.request.latest != first.latest || (!first.latest && load.request.step != first.step);
  }
  if (!saved || std::count(asks.begin(), asks.end(), true) != world_.size) return;
  if (!differ) {
    StartClaim(std::nullopt);
    ContinueClaim();
    return;
  }
  const Failure failure =
      MakeFailure(absl::StatusCode::kFailedPrecondition, "LOADS_DIFFER",
                  "The ranks name different steps. Every rank must load the same one.", "load");
  while (!loads_.empty()) {
    RefuseLoad(loads_.front().request, failure);
    loads_.pop_front();
  }
}

void EpochMachine::FindStep(Load& load) {
  load.finding = true;
  const LoadRequested request = load.request;
  RunScript(outbox_, life_, std::make_shared<FindStepScript>(request.step, world_.epoch),
            [this, request](const FindStepScript::Outcome& outcome) {
              auto load = std::find_if(loads_.begin(), loads_.end(), [&request](const Load& each) {
                return each.request.ticket == request.ticket && each.request.session == request.session;
              });
              if (load == loads_.end()) return;  // its session is gone, or it was refused
              loads_.erase(load);
              if (!outcome.status.ok()) {
                RefuseLoad(request, IoFailure(outcome.status, "load"));
              } else {
                AnswerLoadWith(request, outcome.found);
              }
            });
}

void EpochMachine::AnswerLoadWith(const LoadRequested& request, LoadedStep step) {
  if (Session* session = world_.Find(request.session)) session->loaded = step;
  outbox_.Emit(AnswerLoad{.session = request.session,
                          .ticket = request.ticket,
                          .found = step.found,
                          .step = step.step,
                          .epoch = world_.epoch,
                          .attempt = step.attempt});
}

void EpochMachine::RefuseLoad(const LoadRequested& request, Failure failure) {
  outbox_.Emit(AnswerLoad{.session = request.session,
                          .ticket = request.ticket,
                          .epoch = world_.epoch,
                          .failure = std::move(failure)});
}

void EpochMachine::RefuseLoadsOf(SessionId session, const Failure& failure) {
  for (auto load = loads_.begin(); load != loads_.end();) {
    if (load->request.session != session) {
      ++load;
      continue;
    }
    RefuseLoad(load->request, failure);
    load = loads_.erase(load);
  }
}

// A rank that has saved and loads again starts the next epoch. So once all have saved, nothing of what this epoch
// gave them can be given again; and once a save has committed, "latest" is no longer what it went on from.
EpochMachine::InUse EpochMachine::StillToLoad() const {
  InUse use;
  for (const Load& load : loads_) {
    if (!load.request.latest) use.steps.insert(load.request.step);
  }
  const bool all_saved =
      world_.Complete() && std::all_of(world_.sessions.begin(), world_.sessions.end(),
                                       [](const auto& session) { return session.second.saved; });
  if (coordinator_->RanksHaveCommitted() || (all_saved && coordinator_->HasCommits())) return use;
  constexpr char kMayLoad[] = "a rank of this run may still load it";
  if (latest_ && latest_->found) use.attempts[latest_->attempt] = kMayLoad;
  for (const auto& [id, session] : world_.sessions) {
    if (session.loaded && session.loaded->found) use.attempts[session.loaded->attempt] = kMayLoad;
  }
  return use;
}

void EpochMachine::ExpireLoads() {
  const Millis limit = assembled_ ? limits_.load_ms : limits_.roster_ms;
  while (!loads_.empty() && !claim_ && outbox_.now() - loads_.front().since >= limit) {
    const LoadRequested request = loads_.front().request;
    loads_.pop_front();
    if (!ready_) {
      RefuseLoad(request, Recovering());
    } else if (!assembled_) {
      RefuseLoad(request, RanksMissing(world_.MissingRanks(), "load"));
    } else {
      RefuseLoad(request,
                 MakeFailure(absl::StatusCode::kDeadlineExceeded, "RANKS_DO_NOT_LOAD",
                             "Loading after a save needs every rank to load; some did not ask.", "load"));
    }
  }
}

// After a restart nobody knows what the ranks loaded; then no PARENT is published, and until this epoch's
// first commit "latest" is what it was before.
void EpochMachine::EnsureParent(std::function<void(const absl::Status&)> then) {
  if (parent_ == Parent::kDone) {
    then(absl::OkStatus());
    return;
  }
  parent_waiters_.push_back(std::move(then));
  if (parent_ == Parent::kUnknown) PublishParent();
}

void EpochMachine::PublishParent() {
  parent_ = Parent::kPublishing;
  const auto finish = [this](const absl::Status& status) {
    parent_ = status.ok() ? Parent::kDone : Parent::kUnknown;
    for (const auto& waiter : std::exchange(parent_waiters_, {})) waiter(status);
  };
  const Session* first = nullptr;
  for (const auto& [id, session] : world_.sessions) {
    if (!session.loaded) continue;
    if (first == nullptr) first = &session;
    if (session.loaded->found == first->loaded->found && session.loaded->step == first->loaded->step)
      continue;
    finish(absl::FailedPreconditionError(absl::StrCat(
        "rank ", first->rank, " went on from step ", first->loaded->step, ", rank ", session.rank,
        " from step ", session.loaded->step, "; every rank must load the same step")));
    return;
  }
  if (first == nullptr) {
    finish(absl::OkStatus());
    return;
  }
  const int64_t epoch = world_.epoch;
  RunScript(outbox_, life_,
            std::make_shared<PublishOnce>(storage::ParentPath(epoch), EncodeLoadedStep(*first->loaded)),
            [this, epoch, finish](const PublishOnce::Outcome& outcome) {
              if (epoch == world_.epoch) finish(outcome.status);
            });
}

}  // namespace keepstep::daemon
