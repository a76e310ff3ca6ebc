// Listing and verified reading. A record is believed only at its own place: a decision or part copied to
// another attempt's directory names another attempt and is damage.

#include "storage/checkpoint_reader.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/digest.h"
#include "storage/record.h"

namespace keepstep::storage {
namespace {

absl::StatusOr<std::string> ReadRecord(BlobStore& store, const std::string& path) {
  absl::StatusOr<BlobPath> parsed = BlobPath::Parse(path);
  if (!parsed.ok()) return parsed.status();
  return store.ReadPublished(*parsed);
}

absl::Status At(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::StatusOr<v1::Part> ReadPart(BlobStore& store, const v1::Decision& decision, int index) {
  const v1::PartRef& ref = decision.parts(index);
  const std::string path = absl::StrCat(AttemptDir(decision.step(), decision.attempt()), "/", ref.name());
  if (ParsePartName(ref.name()) != static_cast<uint32_t>(index)) {
    return absl::DataLossError(absl::StrCat(path, ": the decision lists it as part ", index));
  }
  absl::StatusOr<std::string> bytes = ReadRecord(store, path);
  if (!bytes.ok()) return bytes.status();
  if (static_cast<int64_t>(bytes->size()) != ref.size_bytes() ||
      DigestOf(absl::string_view(*bytes)).ToBytes() != ref.digest()) {
    return absl::DataLossError(absl::StrCat(path, ": it differs from what the decision lists"));
  }
  absl::StatusOr<v1::Part> part = DecodePart(*bytes);
  if (!part.ok()) return At(path, part.status());
  if (part->attempt() != decision.attempt() || part->index() != static_cast<uint32_t>(index) ||
      part->count() != static_cast<uint32_t>(decision.parts_size())) {
    return absl::DataLossError(absl::StrCat(path, ": it belongs to another checkpoint"));
  }
  return part;
}

absl::Status AddAttempt(BlobStore& store, const BlobInfo& info, int64_t step,
                        std::vector<AttemptInfo>& attempts) {
  const std::optional<AttemptId> id = ParseAttempt(info.path.Leaf());
  if (!info.is_directory || !id) return absl::OkStatus();
  absl::StatusOr<std::vector<BlobInfo>> files = store.List(info.path);
  if (!files.ok()) return files.status();
  AttemptInfo attempt;
  attempt.step = step;
  attempt.id = *id;
  for (const BlobInfo& file : *files) {
    if (file.is_directory) continue;
    attempt.has_decision |= file.path.Leaf() == kDecisionName;
    attempt.deleting |= file.path.Leaf() == kDeletingName;
  }
  attempts.push_back(attempt);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<int64_t>> ListSteps(BlobStore& store) {
  absl::StatusOr<std::vector<BlobInfo>> entries = store.List(BlobPath::Root());
  if (!entries.ok()) return entries.status();
  std::vector<int64_t> steps;
  for (const BlobInfo& info : *entries) {
    const std::optional<int64_t> step = ParseStep(info.path.Leaf());
    if (info.is_directory && step) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

absl::StatusOr<std::vector<AttemptInfo>> ListAttempts(BlobStore& store, int64_t step) {
  if (step < 0 || step > kMaxStep)
    return absl::InvalidArgumentError(absl::StrCat("step ", step, " is out of range"));
  absl::StatusOr<BlobPath> directory = BlobPath::Parse(StepName(step));
  if (!directory.ok()) return directory.status();
  absl::StatusOr<std::vector<BlobInfo>> entries = store.List(*directory);
  if (!entries.ok()) return entries.status();
  std::vector<AttemptInfo> attempts;
  for (const BlobInfo& info : *entries) {
    absl::Status status = AddAttempt(store, info, step, attempts);
    if (!status.ok()) return status;
  }
  std::sort(attempts.begin(), attempts.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return attempts;
}

absl::StatusOr<v1::Decision> ReadDecision(BlobStore& store, int64_t step, const AttemptId& attempt) {
  if (step < 0 || step > kMaxStep)
    return absl::InvalidArgumentError(absl::StrCat("step ", step, " is out of range"));
  const std::string path = DecisionPath(step, AttemptName(attempt));
  absl::StatusOr<std::string> bytes = ReadRecord(store, path);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<v1::Decision> decision = DecodeDecision(*bytes);
  if (!decision.ok()) return At(path, decision.status());
  if (decision->step() != step || decision->attempt() != AttemptName(attempt)) {
    return absl::DataLossError(absl::StrCat(path, ": it decides another attempt"));
  }
  // Whoever counts epochs believes the field: it may not differ from the name that the order goes by.
  if (decision->kind() == v1::Decision::COMMIT && decision->epoch() != attempt.epoch) {
    return absl::DataLossError(absl::StrCat(path, ": it decides in another epoch"));
  }
  return decision;
}

absl::StatusOr<v1::Decision> CommittedAttempt(BlobStore& store, int64_t step) {
  absl::StatusOr<std::vector<AttemptInfo>> attempts = ListAttempts(store, step);
  if (!attempts.ok()) return attempts.status();
  for (auto attempt = attempts->rbegin(); attempt != attempts->rend(); ++attempt) {
    if (attempt->deleting || !attempt->has_decision) continue;
    absl::StatusOr<v1::Decision> decision = ReadDecision(store, step, attempt->id);
    if (!decision.ok() && !absl::IsNotFound(decision.status())) return decision;
    if (decision.ok() && decision->kind() == v1::Decision::COMMIT) return decision;
  }
  return absl::NotFoundError(absl::StrCat("step ", step, " has no committed checkpoint"));
}

absl::StatusOr<std::vector<v1::Decision>> CommittedAttempts(BlobStore& store, int64_t step) {
  absl::StatusOr<std::vector<AttemptInfo>> attempts = ListAttempts(store, step);
  if (!attempts.ok()) return attempts.status();
  std::vector<v1::Decision> committed;
  for (const AttemptInfo& attempt : *attempts) {
    absl::StatusOr<v1::Decision> decision = ReadDecision(store, step, attempt.id);
    if (absl::IsNotFound(decision.status()) || absl::IsDataLoss(decision.status())) continue;
    if (!decision.ok()) return decision.status();
    if (decision->kind() == v1::Decision::COMMIT) committed.push_back(*std::move(decision));
  }
  return committed;
}

absl::StatusOr<Manifest> LoadManifest(BlobStore& store, int64_t step, const AttemptId& attempt) {
  absl::StatusOr<v1::Decision> decision = ReadDecision(store, step, attempt);
  if (!decision.ok()) return decision.status();
  if (decision->kind() != v1::Decision::COMMIT) {
    return absl::FailedPreconditionError(
        absl::StrCat(AttemptDir(step, AttemptName(attempt)), " is not committed"));
  }
  Manifest manifest;
  for (int i = 0; i < decision->parts_size(); ++i) {
    absl::StatusOr<v1::Part> part = ReadPart(store, *decision, i);
    if (!part.ok() && absl::IsNotFound(part.status())) {
      absl::StatusOr<BlobPath> marker = BlobPath::Parse(DeletingPath(step, decision->attempt()));
      if (!marker.ok()) return marker.status();
      if (store.ReadPublished(*marker).ok()) return part.status();
      return absl::DataLossError(absl::StrCat(part.status().message(), ": a committed part is missing"));
    }
    if (!part.ok()) return part.status();
    manifest.parts.push_back(*std::move(part));
  }
  manifest.decision = *std::move(decision);
  return manifest;
}

}  // namespace keepstep::storage
