#include "daemon/plan_cache.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/error.h"
#include "daemon/plan_error.h"
#include "daemon/replica_check.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kPlansKept = 4;

absl::StatusOr<std::shared_ptr<const reshard::SavePlan>> Make(absl::Span<const PlanRank> ranks) {
  std::vector<reshard::RankShards> shards;
  shards.reserve(ranks.size());
  for (const PlanRank& rank : ranks) shards.push_back(*rank.registration->shards);
  auto plan = reshard::MakeSavePlan(shards);
  if (!plan.ok()) return SavePlanError(plan.status(), "plan");
  return std::make_shared<const reshard::SavePlan>(*std::move(plan));
}

absl::Status Check(const reshard::SavePlan& plan, absl::Span<const PlanRank> ranks, Cancellation& cancel) {
  std::vector<RankMemory> memory;
  memory.reserve(ranks.size());
  for (const PlanRank& rank : ranks) {
    memory.push_back({rank.registration->shards, rank.registration->addresses, rank.port});
  }
  const absl::Status status = CheckReplicas(plan, memory, cancel);
  if (status.ok() || !absl::StartsWith(status.message(), kReplicaMismatch)) return status;
  return MakeError(status.code(), kReplicaMismatch, status.message(), "plan");
}

}  // namespace

absl::StatusOr<std::shared_ptr<const reshard::SavePlan>> PlanCache::Get(absl::Span<const PlanRank> ranks,
                                                                        bool check_replicas,
                                                                        Cancellation& cancel) {
  std::string key;
  for (const PlanRank& rank : ranks) absl::StrAppend(&key, rank.registration->fingerprint, ";");
  std::shared_ptr<const reshard::SavePlan> plan;
  bool checked = false;
  {
    std::lock_guard lock(mutex_);
    for (const Entry& entry : entries_) {
      if (entry.key != key) continue;
      plan = entry.plan;
      checked = entry.replicas_checked;
    }
  }
  if (plan == nullptr) {
    auto made = Make(ranks);
    if (!made.ok()) return made.status();
    plan = *std::move(made);
  }
  if (check_replicas && !checked) {
    if (absl::Status status = Check(*plan, ranks, cancel); !status.ok()) return status;
    checked = true;
  }
  std::lock_guard lock(mutex_);
  entries_.remove_if([&](const Entry& entry) { return entry.key == key; });
  entries_.push_front({std::move(key), plan, checked});
  if (entries_.size() > kPlansKept) entries_.pop_back();
  return plan;
}

}  // namespace keepstep::daemon
