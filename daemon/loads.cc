#include "daemon/loads.h"

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "daemon/dtype_convert.h"
#include "daemon/error.h"
#include "daemon/load_pipeline.h"
#include "daemon/name_pattern.h"
#include "daemon/plan_error.h"
#include "reshard/load_plan.h"

namespace keepstep::daemon {
namespace {

constexpr int kMaxUnexpected = 1000;
constexpr int kMaxPatterns = 1024;

struct Wanted {
  // Under stored names and, if converted, stored dtypes: all that is registered as it is, or `own`.
  absl::Span<const reshard::TensorShard> shards;
  std::vector<reshard::TensorShard> own;
  std::vector<std::string> registered_names;  // of `own`
  std::vector<reshard::DType> local_dtypes;   // of `own`

  const std::string& RegisteredName(uint32_t shard) const {
    return own.empty() ? shards[shard].meta.fqn : registered_names[shard];
  }
};

template <typename Patterns>
bool Matches(const Patterns& patterns, const std::string& name) {
  for (const std::string& pattern : patterns) {
    if (MatchesPattern(pattern, name)) return true;
  }
  return false;
}

absl::Status CheckRenames(const v1::LoadRequest& request, const reshard::RankShards& shards) {
  if (request.rename().empty()) return absl::OkStatus();
  absl::flat_hash_set<absl::string_view> names;
  for (const reshard::TensorShard& shard : shards.shards) names.insert(shard.meta.fqn);
  for (const auto& [from, to] : request.rename()) {
    if (names.contains(from)) continue;
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_RENAME",
                     absl::StrCat("rename names '", from,
                                  "', which is not registered. It maps registered to stored names."),
                     "load");
  }
  return absl::OkStatus();
}

absl::StatusOr<Wanted> Select(const v1::LoadRequest& request, const reshard::RankShards& shards,
                              const StoredCheckpoint& from) {
  if (absl::Status status = CheckRenames(request, shards); !status.ok()) return status;
  if (request.only_size() > kMaxPatterns || request.exclude_size() > kMaxPatterns) {
    return MakeError(absl::StatusCode::kResourceExhausted, "TOO_MANY_PATTERNS",
                     absl::StrCat("A load takes ", kMaxPatterns, " patterns each of only and exclude."),
                     "load");
  }
  Wanted wanted;
  if (request.only().empty() && request.exclude().empty() && request.rename().empty() &&
      !request.convert_dtype()) {
    wanted.shards = shards.shards;
    return wanted;
  }
  for (const reshard::TensorShard& shard : shards.shards) {
    const std::string& name = shard.meta.fqn;
    if (request.only_size() > 0 && !Matches(request.only(), name)) continue;
    if (Matches(request.exclude(), name)) continue;
    reshard::TensorShard want = shard;
    if (auto renamed = request.rename().find(name); renamed != request.rename().end())
      want.meta.fqn = renamed->second;
    const reshard::StoredTensor* stored = from.Find(want.meta.fqn);
    if (request.convert_dtype() && stored != nullptr && stored->meta.dtype != shard.meta.dtype) {
      if (absl::Status status = CheckConversion(stored->meta.dtype, shard.meta.dtype); !status.ok())
        return status;
      want.meta.dtype = stored->meta.dtype;
    }
    wanted.registered_names.push_back(name);
    wanted.local_dtypes.push_back(shard.meta.dtype);
    wanted.own.push_back(std::move(want));
  }
  wanted.shards = wanted.own;
  return wanted;
}

void ListUnexpected(const Wanted& wanted, const reshard::RankShards& registered, const StoredCheckpoint& from,
                    v1::LoadReport& report) {
  absl::flat_hash_set<absl::string_view> known;
  for (const reshard::TensorShard& shard : wanted.shards) known.insert(shard.meta.fqn);
  for (const reshard::TensorShard& shard : registered.shards) known.insert(shard.meta.fqn);
  for (const std::string& name : from.names()) {
    if (report.unexpected_size() >= kMaxUnexpected) return;
    if (!known.contains(name)) report.add_unexpected(name);
  }
}

}  // namespace

absl::StatusOr<v1::LoadReport> LoadRank(DataPlane& plane, const FoundCheckpoint& from,
                                        const Registration& registration, std::shared_ptr<MemoryPort> port,
                                        const v1::LoadRequest& request,
                                        std::function<void(int64_t, int64_t)> progress,
                                        LoadMeter& meter, Cancellation& cancel) {
  const auto started = std::chrono::steady_clock::now();
  const StoredCheckpoint& stored = *from.source.from;
  auto wanted = Select(request, *registration.shards, stored);
  if (!wanted.ok()) return wanted.status();
  auto plan = reshard::MakeLoadPlan(wanted->shards, [&](absl::string_view name) { return stored.Find(name); },
                                    {.allow_partial = !request.strict(), .stored_names = stored.names()});
  if (!plan.ok()) return LoadPlanError(plan.status(), " Use rename={…} or strict=False.");
  meter.Planned();
  LoadSpec spec{.store = from.source.store,
                .cache_prefix = from.source.cache_prefix,
                .from = from.source.from,
                .wanted = wanted->shards,
                .buffer_addresses = registration.addresses,
                .plan = &*plan,
                .port = std::move(port),
                .progress = std::move(progress)};
  if (request.convert_dtype()) spec.local_dtypes = wanted->local_dtypes;
  auto stats = RunLoad(plane, spec, cancel);
  if (!stats.ok()) return stats.status();

  v1::LoadReport report;
  report.set_found(true);
  report.set_step(from.decision.step());
  report.set_attempt(from.decision.attempt());
  report.set_epoch(from.decision.epoch());
  report.set_delivered_bytes(stats->delivered_bytes);
  report.set_unique_bytes(stats->unique_bytes);
  report.set_read_bytes(stats->read_bytes);
  report.set_warm_bytes(stats->warm_bytes);
  for (const reshard::Missing& missing : plan->missing)
    report.add_missing(wanted->RegisteredName(missing.shard));
  ListUnexpected(*wanted, *registration.shards, stored, report);
  report.set_seconds(std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
  meter.Loaded(report);
  return report;
}

}  // namespace keepstep::daemon
