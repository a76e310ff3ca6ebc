#include "daemon/checkpoint_cache.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/error.h"
#include "storage/attempt.h"
#include "storage/checkpoint_reader.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kKept = 4;

absl::Status NotFound(const Job& job, const std::string& what) {
  return MakeError(absl::StatusCode::kNotFound, "UNKNOWN_CHECKPOINT",
                   absl::StrCat(job.label(), " has no checkpoint ", what, ". `keepstep ls ", job.label(),
                                "` shows its steps."));
}

}  // namespace

absl::StatusOr<FoundCheckpoint> CheckpointCache::Find(const Job& job, bool latest, int64_t step) {
  v1::Decision decision;
  if (latest) {
    auto newest = storage::ResolveLatest(*job.store());
    if (!newest.ok()) return newest.status();
    if (!newest->has_value()) return NotFound(job, "yet");
    decision = **newest;
  } else {
    if (step < 0 || step > storage::kMaxStep) {
      return MakeError(absl::StatusCode::kInvalidArgument, "BAD_STEP",
                       absl::StrCat("Step ", step, " is out of range."));
    }
    auto committed = storage::CommittedAttempt(*job.store(), step);
    if (absl::IsNotFound(committed.status())) return NotFound(job, absl::StrCat("of step ", step));
    if (!committed.ok()) return committed.status();
    decision = *std::move(committed);
  }
  return FindAttempt(job, decision.step(), decision.attempt());
}

absl::StatusOr<FoundCheckpoint> CheckpointCache::FindAttempt(const Job& job, int64_t step,
                                                             absl::string_view attempt) {
  const std::string key = job.LeaseKey(attempt);
  ReadLease lease = leases_->Take(key);  // before its manifest is read: then it is whole, and stays so
  if (lease == nullptr) return NotFound(job, absl::StrCat("of step ", step, " any more"));
  std::lock_guard lock(mutex_);
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if (it->key != key) continue;
    entries_.splice(entries_.begin(), entries_, it);
    FoundCheckpoint found = entries_.front().found;
    found.lease = std::move(lease);
    return found;
  }
  const auto id = storage::ParseAttempt(attempt);
  if (!id.has_value()) return NotFound(job, absl::StrCat("of attempt ", attempt));
  auto manifest = storage::LoadManifest(*job.store(), step, *id);
  if (!manifest.ok()) return manifest.status();
  auto directory = storage::BlobPath::Parse(storage::AttemptDir(step, attempt));
  if (!directory.ok()) return directory.status();
  auto stored = StoredCheckpoint::Make(*directory, std::move(manifest->parts), buffer_bytes_);
  if (!stored.ok()) return stored.status();
  FoundCheckpoint found{
      .decision = std::move(manifest->decision),
      .source = {.store = job.store(), .cache_prefix = job.cache_prefix(), .from = *std::move(stored)}};
  entries_.push_front({key, found});
  if (entries_.size() > kKept) entries_.pop_back();
  found.lease = std::move(lease);
  return found;
}

void CheckpointCache::Forget(const Job& job, absl::string_view attempt) {
  std::lock_guard lock(mutex_);
  entries_.remove_if([&](const Entry& entry) { return entry.key == job.LeaseKey(attempt); });
}

}  // namespace keepstep::daemon
