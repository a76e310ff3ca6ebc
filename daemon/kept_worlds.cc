#include "daemon/kept_worlds.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "daemon/same_place.h"

namespace keepstep::daemon {
namespace {

constexpr char kLaterEpoch[] = "the run is in a later epoch";
constexpr char kAskedTwice[] = "a rank asked twice";
constexpr size_t kMaxDecisions = 4096;  // as many jobs as a daemon knows

absl::Status Cold(const std::string& why) { return absl::FailedPreconditionError(why); }

// What the dead rank's record proves, if it is whole.
absl::StatusOr<std::shared_ptr<const proto::FlightNote>> NoteOf(const KeptRank& kept) {
  const std::string name = absl::StrCat("rank ", kept.rank);
  auto record = proto::ReadFlightRecord(kept.flight_record.get());
  if (!record.ok()) return Cold(absl::StrCat(name, " left a flight record that cannot be read: ", record.status().message()));
  std::string why;
  const proto::FlightNote* note = proto::WholeNote(*record, kept.registration->generation, &why);
  if (note == nullptr) return Cold(absl::StrCat(name, ": ", why));
  return std::make_shared<const proto::FlightNote>(*note);
}

// Every GPU tensor's piece was handed on from that world, and is the asking process's still.
std::string WhyNotKept(const WarmAsk& ask, uint64_t world) {
  for (const reshard::TensorShard& shard : ask.registration->shards->shards) {
    const auto place = PlaceOf(*ask.registration, shard.buffer);
    if (!place.has_value()) continue;  // WhyNotInPlace has looked
    const auto piece = ask.pieces.find(place->piece);
    if (piece == ask.pieces.end() || piece->second.kept_of != world)
      return absl::StrCat("has '", shard.meta.fqn, "' in memory that was not kept");
  }
  return "";
}

}  // namespace

absl::StatusOr<std::shared_ptr<const WarmWorld>> KeptWorlds::Judge(const World& world, const Asked& asked) {
  const auto size = static_cast<int32_t>(asked.size());
  if (size != world.size) return Cold(absl::StrCat("the world before had ", world.size, " ranks, this one has ", size));
  auto warm = std::make_shared<WarmWorld>();
  for (int32_t rank = 0; rank < size; ++rank) {
    const auto kept = world.ranks.find(rank);
    if (kept == world.ranks.end()) return Cold(absl::StrCat("rank ", rank, " did not leave its memory"));
    const WarmAsk& ask = asked.at(rank).first;
    if (ask.committed && ask.committed_epoch > world.epoch) return Cold("another run has saved since");
    std::string why = WhyNotInPlace(*kept->second.registration, *ask.registration);
    if (why.empty()) why = WhyNotKept(ask, world.number);
    if (!why.empty()) return Cold(absl::StrCat("rank ", rank, " ", why));
    auto note = NoteOf(kept->second);
    if (!note.ok()) return note.status();
    const int64_t step = (*note)->slot.step;
    if (rank == 0) warm->step = step;
    if (step != warm->step)
      return Cold(absl::StrCat("rank ", rank, " was at step ", step, ", rank 0 at ", warm->step));
    if (ask.committed && ask.committed_step > step)
      return Cold(absl::StrCat("step ", ask.committed_step, " is committed, the memory is of step ", step));
    warm->ranks.push_back({kept->second.registration, *std::move(note)});
  }
  return std::shared_ptr<const WarmWorld>(std::move(warm));
}

void KeptWorlds::Keep(const std::string& job, KeptRank rank, Clock::time_point now) {
  std::vector<Told> told;
  {
    std::lock_guard lock(mutex_);
    auto found = worlds_.find(job);
    if (found != worlds_.end() && found->second.epoch > rank.epoch) return;
    if (found != worlds_.end() && (found->second.epoch < rank.epoch || found->second.size != rank.world_size)) {
      Drop(found, "a later run has died", told);
      found = worlds_.end();
    }
    if (found == worlds_.end()) {
      found = worlds_.emplace(job, World{.number = ++last_number_,
                                         .epoch = rank.epoch,
                                         .size = rank.world_size,
                                         .since = now,
                                         .ranks = {}}).first;
    }
    found->second.ranks.insert_or_assign(rank.rank, std::move(rank));
  }
  for (const Told& one : told) one.done(one.answer);
}

std::optional<LentPiece> KeptWorlds::HandOn(const std::string& job, int32_t rank, int32_t world_size,
                                            const PieceName& name, int64_t size_bytes) {
  std::lock_guard lock(mutex_);
  const auto world = worlds_.find(job);
  if (world == worlds_.end() || world->second.size != world_size) return std::nullopt;
  const auto kept = world->second.ranks.find(rank);
  if (kept == world->second.ranks.end()) return std::nullopt;
  const auto piece = kept->second.pieces.find(name);
  if (piece == kept->second.pieces.end()) return std::nullopt;
  const int64_t held_bytes = piece->second.piece->size_bytes();
  if (size_bytes > held_bytes || held_bytes - size_bytes >= kPieceGranularityBytes) return std::nullopt;
  LentPiece lent{std::move(piece->second.piece), world->second.number};
  kept->second.pieces.erase(piece);
  return lent;
}

// The one of that epoch; those who wait in an older one are told.
KeptWorlds::Decision& KeptWorlds::DecisionOf(const std::string& job, int64_t epoch, std::vector<Told>& told) {
  auto found = decisions_.find(job);
  if (found == decisions_.end()) {
    if (decisions_.size() >= kMaxDecisions) {
      std::erase_if(decisions_, [](const auto& each) { return each.second.made; });
    }
    found = decisions_.emplace(job, Decision{.epoch = epoch, .why_cold = "", .asked = {}}).first;
  } else if (found->second.epoch < epoch) {
    if (!found->second.made) Settle(job, found->second, {nullptr, kLaterEpoch}, told);
    found->second = {.epoch = epoch, .why_cold = "", .asked = {}};
  }
  return found->second;
}

void KeptWorlds::Settle(const std::string& job, Decision& decision, const WarmAnswer& cold, std::vector<Told>& told) {
  decision.made = true;
  decision.why_cold = cold.why_cold;
  for (auto& [rank, asked] : decision.asked) told.push_back({std::move(asked.second), cold});
  decision.asked.clear();
  // What an epoch decides about is what the epochs before it have left.
  const auto world = worlds_.find(job);
  if (world == worlds_.end() || world->second.epoch >= decision.epoch) return;
  ++counts_.cold;
  worlds_.erase(world);
}

void KeptWorlds::Drop(std::map<std::string, World>::iterator world, const std::string& why, std::vector<Told>& told) {
  const auto waiting = decisions_.find(world->first);
  if (waiting != decisions_.end() && !waiting->second.made && waiting->second.epoch > world->second.epoch) {
    Settle(world->first, waiting->second, {nullptr, why}, told);  // erases it
  } else {
    ++counts_.cold;
    worlds_.erase(world);
  }
}

void KeptWorlds::Ask(const std::string& job, WarmAsk ask, Done done) {
  std::vector<Told> told;
  std::optional<World> judged;
  Asked asked;
  {
    std::lock_guard lock(mutex_);
    Decision& decision = DecisionOf(job, ask.epoch, told);
    const auto world = worlds_.find(job);
    if (ask.epoch < decision.epoch) {
      told.push_back({std::move(done), {nullptr, kLaterEpoch}});
    } else if (decision.made) {
      told.push_back({std::move(done), {nullptr, decision.why_cold}});
    } else {
      const int32_t rank = ask.rank, size = ask.world_size;
      const bool kept = world != worlds_.end() && world->second.epoch < ask.epoch;
      const bool twice = !decision.asked.try_emplace(rank, std::move(ask), std::move(done)).second;
      if (!kept || twice) {
        // Another call of the same rank: the one before has been given up, without its end having been seen yet.
        if (twice) told.push_back({std::move(done), {nullptr, kAskedTwice}});
        Settle(job, decision, {nullptr, twice ? kAskedTwice : "no memory was kept for this job"}, told);
      } else if (static_cast<int32_t>(decision.asked.size()) == size) {
        judged = std::move(world->second);
        worlds_.erase(world);
        asked = std::exchange(decision.asked, {});
        decision.made = true;
        decision.why_cold = "this run has decided already whether it goes on with kept memory";
      }
    }
  }
  if (judged.has_value()) {
    auto warm = Judge(*judged, asked);
    const WarmAnswer answer = warm.ok() ? WarmAnswer{*warm, ""} : WarmAnswer{nullptr, std::string(warm.status().message())};
    judged.reset();  // what no new process was handed is free before anybody goes on
    {
      std::lock_guard lock(mutex_);
      ++(warm.ok() ? counts_.warm : counts_.cold);
    }
    for (auto& [rank, each] : asked) told.push_back({std::move(each.second), answer});
  }
  for (const Told& one : told) one.done(one.answer);
}

void KeptWorlds::Decline(const std::string& job, int64_t epoch, const std::string& why) {
  std::vector<Told> told;
  {
    std::lock_guard lock(mutex_);
    Decision& decision = DecisionOf(job, epoch, told);
    if (decision.epoch == epoch && !decision.made) Settle(job, decision, {nullptr, why}, told);
  }
  for (const Told& one : told) one.done(one.answer);
}

bool KeptWorlds::DropOldest() {
  std::vector<Told> told;
  bool dropped = false;
  {
    std::lock_guard lock(mutex_);
    const auto oldest = std::min_element(worlds_.begin(), worlds_.end(), [](const auto& a, const auto& b) {
      return a.second.since < b.second.since;
    });
    dropped = oldest != worlds_.end();
    if (dropped) Drop(oldest, "the memory that was kept was needed", told);
  }
  for (const Told& one : told) one.done(one.answer);
  return dropped;
}

void KeptWorlds::Expire(Clock::time_point now) {
  std::vector<Told> told;
  {
    std::lock_guard lock(mutex_);
    for (auto world = worlds_.begin(); world != worlds_.end();) {
      const auto next = std::next(world);
      if (now - world->second.since >= hold_) Drop(world, "memory is kept no longer than gpu_pool.hold", told);
      world = next;
    }
  }
  for (const Told& one : told) one.done(one.answer);
}

KeptWorlds::Counts KeptWorlds::counts() const {
  std::lock_guard lock(mutex_);
  Counts counts = counts_;
  counts.worlds = static_cast<int64_t>(worlds_.size());
  return counts;
}

std::map<GpuUuid, int64_t> KeptWorlds::bytes_by_gpu() const {
  std::lock_guard lock(mutex_);
  std::map<GpuUuid, int64_t> bytes;
  for (const auto& [job, world] : worlds_) {
    for (const auto& [rank, kept] : world.ranks) {
      for (const auto& [name, lent] : kept.pieces) bytes[name.gpu] += lent.piece->size_bytes();
    }
  }
  return bytes;
}

}  // namespace keepstep::daemon
