// "Latest" is computed from decisions and epochs, never read from a file that could lie.

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/checkpoint_reader.h"
#include "storage/record.h"

namespace keepstep::storage {
namespace {

// One decided attempt that is not being deleted: a commit, or a record that can no longer be read.
struct Candidate {
  int64_t step = 0;
  AttemptId id;
  absl::StatusOr<v1::Decision> decision = absl::NotFoundError("");
};

bool Before(const Candidate& a, const Candidate& b) {
  return std::tie(a.id.epoch, a.step, a.id) < std::tie(b.id.epoch, b.step, b.id);
}

bool IsDamage(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsFailedPrecondition(status);
}

// In the order of epochs, then steps, then attempts.
absl::StatusOr<std::vector<Candidate>> Candidates(BlobStore& store) {
  absl::StatusOr<std::vector<int64_t>> steps = ListSteps(store);
  if (!steps.ok()) return steps.status();
  std::vector<Candidate> result;
  for (int64_t step : *steps) {
    absl::StatusOr<std::vector<AttemptInfo>> attempts = ListAttempts(store, step);
    if (!attempts.ok()) return attempts.status();
    for (const AttemptInfo& attempt : *attempts) {
      if (attempt.deleting || !attempt.has_decision) continue;
      Candidate candidate{step, attempt.id, ReadDecision(store, step, attempt.id)};
      const absl::Status& status = candidate.decision.status();
      if (absl::IsNotFound(status)) continue;
      if (!status.ok() && !IsDamage(status)) return status;
      if (status.ok() && candidate.decision->kind() != v1::Decision::COMMIT) continue;
      result.push_back(std::move(candidate));
    }
  }
  std::sort(result.begin(), result.end(), Before);
  return result;
}

absl::StatusOr<std::set<int64_t>> ListEpochs(BlobStore& store) {
  absl::StatusOr<BlobPath> directory = BlobPath::Parse(kEpochsDir);
  if (!directory.ok()) return directory.status();
  absl::StatusOr<std::vector<BlobInfo>> entries = store.List(*directory);
  if (!entries.ok()) return entries.status();
  std::set<int64_t> epochs;
  for (const BlobInfo& info : *entries) {
    if (const std::optional<int64_t> epoch = ParseEpoch(info.path.Leaf())) epochs.insert(*epoch);
  }
  return epochs;
}

// NOT_FOUND when the epoch never saved.
absl::StatusOr<v1::EpochStep> ReadParent(BlobStore& store, int64_t epoch) {
  absl::StatusOr<BlobPath> path = BlobPath::Parse(ParentPath(epoch));
  if (!path.ok()) return path.status();
  absl::StatusOr<std::string> bytes = store.ReadPublished(*path);
  if (!bytes.ok()) return bytes.status();
  return DecodeEpochStep(*bytes);
}

const Candidate* Find(const std::vector<Candidate>& candidates, const v1::EpochStep& wanted) {
  for (const Candidate& candidate : candidates) {
    if (candidate.step == wanted.step() && AttemptName(candidate.id) == wanted.attempt()) return &candidate;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<CheckpointList> ListCheckpoints(BlobStore& store) {
  absl::StatusOr<std::vector<Candidate>> candidates = Candidates(store);
  if (!candidates.ok()) return candidates.status();
  CheckpointList list;
  for (Candidate& candidate : *candidates) {
    if (!candidate.decision.ok()) {
      ++list.damaged;
      continue;
    }
    const bool again = !list.committed.empty() && list.committed.back().step() == candidate.step &&
                       ParseAttempt(list.committed.back().attempt())->epoch == candidate.id.epoch;
    if (again) list.committed.pop_back();
    list.committed.push_back(*std::move(candidate.decision));
  }
  return list;
}

absl::StatusOr<std::optional<v1::Decision>> ResolveLatest(BlobStore& store) {
  absl::StatusOr<std::vector<Candidate>> candidates = Candidates(store);
  if (!candidates.ok()) return candidates.status();
  absl::StatusOr<std::set<int64_t>> epochs = ListEpochs(store);
  if (!epochs.ok()) return epochs.status();
  std::map<int64_t, const Candidate*> newest;  // by epoch: the last in order wins
  for (const Candidate& candidate : *candidates) {
    newest[candidate.id.epoch] = &candidate;
    epochs->insert(candidate.id.epoch);
  }
  for (auto epoch = epochs->rbegin(); epoch != epochs->rend(); ++epoch) {
    const Candidate* found = newest.count(*epoch) != 0 ? newest[*epoch] : nullptr;
    if (found == nullptr) {
      absl::StatusOr<v1::EpochStep> parent = ReadParent(store, *epoch);
      if (absl::IsNotFound(parent.status())) continue;
      if (!parent.ok()) return parent.status();
      if (parent->none()) return std::nullopt;
      found = Find(*candidates, *parent);  // gone since, if retention took it
    }
    if (found == nullptr) continue;
    if (!found->decision.ok()) return found->decision.status();
    return *found->decision;
  }
  return std::nullopt;
}

}  // namespace keepstep::storage
