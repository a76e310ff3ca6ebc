// A job's directory with any records in any place: what readers make of decisions, claims, epoch steps and
// markers.
//
// What is listed as a checkpoint is a COMMIT at its own place; what "latest" names is listed; a manifest that
// loads has every part that its decision lists.

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "reshard/check.h"
#include "storage/checkpoint_reader.h"
#include "storage/digest.h"
#include "storage/memory_store.h"
#include "storage/record.h"
#include "tests/fuzz/cases.pb.h"
#include "tests/fuzz/proto_mutator.h"

namespace keepstep::fuzz {
namespace {

using storage::BlobPath;

std::string BytesOf(const StoreCase::File& file) {
  switch (file.content_case()) {
    case StoreCase::File::kPart:
      return storage::EncodePart(file.part());
    case StoreCase::File::kDecision:
      return storage::EncodeDecision(file.decision());
    case StoreCase::File::kClaim:
      return storage::EncodeClaim(file.claim());
    case StoreCase::File::kStep:
      return storage::EncodeEpochStep(file.step());
    case StoreCase::File::kMarker:
      return storage::EncodeMarker(file.marker());
    default:
      return file.raw();
  }
}

// References without a digest get that of the file that they name: else no mutation would find it.
void Mend(v1::Decision& decision, const BlobPath& path, const std::map<std::string, std::string>& files) {
  for (v1::PartRef& part : *decision.mutable_parts()) {
    const auto named = files.find(absl::StrCat(path.Parent().text(), "/", part.name()));
    if (!part.digest().empty() || named == files.end()) continue;
    part.set_size_bytes(static_cast<int64_t>(named->second.size()));
    part.set_digest(storage::DigestOf(absl::string_view(named->second)).ToBytes());
  }
}

void Fill(const StoreCase& value, storage::BlobStore& store) {
  std::map<std::string, std::string> files;
  for (const StoreCase::File& file : value.files()) files[file.path()] = BytesOf(file);
  for (const StoreCase::File& file : value.files()) {
    const auto path = BlobPath::Parse(file.path());
    if (!path.ok()) continue;
    StoreCase::File mended = file;
    if (mended.has_decision()) Mend(*mended.mutable_decision(), *path, files);
    store.PublishExclusive(*path, BytesOf(mended)).IgnoreError();
  }
}

void CheckManifest(storage::BlobStore& store, const v1::Decision& decision) {
  const auto attempt = storage::ParseAttempt(decision.attempt());
  KEEPSTEP_CHECK(attempt.has_value(), "a checkpoint whose attempt has no name");
  const auto manifest = storage::LoadManifest(store, decision.step(), *attempt);
  if (!manifest.ok()) return;
  KEEPSTEP_CHECK(manifest->parts.size() == static_cast<size_t>(decision.parts_size()),
                 "parts that are not listed");
  storage::StoredTensors(manifest->parts).status().IgnoreError();
}

// A PARENT names its attempt itself, so "latest" may be one that the list leaves out for a later attempt of
// its step.
void CheckLatest(storage::BlobStore& store, const storage::CheckpointList& list) {
  const auto latest = storage::ResolveLatest(store);
  if (!latest.ok() || !latest->has_value()) return;
  const auto attempt = storage::ParseAttempt((*latest)->attempt());
  KEEPSTEP_CHECK(attempt.has_value(), "latest is an attempt without a name");
  const auto decision = storage::ReadDecision(store, (*latest)->step(), *attempt);
  KEEPSTEP_CHECK(decision.ok() && decision->kind() == v1::Decision::COMMIT, "latest is no checkpoint");
  bool listed = false;
  for (const v1::Decision& each : list.committed) {
    listed = listed || (each.step() == (*latest)->step() && each.epoch() == (*latest)->epoch());
  }
  KEEPSTEP_CHECK(listed, "latest is of a step that is not listed");
}

void TestStore(const StoreCase& value) {
  storage::MemoryStore store;
  Fill(value, store);
  const auto steps = storage::ListSteps(store);
  KEEPSTEP_CHECK(steps.ok(), "a directory that cannot be listed");
  for (const int64_t step : *steps) {
    const auto attempts = storage::ListAttempts(store, step);
    if (!attempts.ok()) continue;
    for (const storage::AttemptInfo& info : *attempts) {
      storage::ReadDecision(store, step, info.id).status().IgnoreError();
    }
    const auto committed = storage::CommittedAttempt(store, step);
    KEEPSTEP_CHECK(
        !committed.ok() || (committed->kind() == v1::Decision::COMMIT && committed->step() == step),
        "a committed attempt that is none");
  }
  const auto list = storage::ListCheckpoints(store);
  if (!list.ok()) return;
  for (const v1::Decision& decision : list->committed) {
    KEEPSTEP_CHECK(decision.kind() == v1::Decision::COMMIT, "a checkpoint that is not committed");
    CheckManifest(store, decision);
  }
  CheckLatest(store, *list);
}

}  // namespace
}  // namespace keepstep::fuzz

KEEPSTEP_FUZZ_CASES(keepstep::fuzz::StoreCase, keepstep::fuzz::TestStore)
