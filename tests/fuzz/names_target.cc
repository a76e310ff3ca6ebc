// Names that others chose: paths, attempts, steps, epochs, parts, entries of headers, tensors.
//
// A parser takes exactly what its formatter writes, so a name that it takes is written again letter by
// letter.

#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "reshard/check.h"
#include "reshard/tensor.h"
#include "storage/attempt.h"
#include "storage/blob_path.h"
#include "storage/safetensors.h"

namespace keepstep::fuzz {
namespace {

void CheckPath(absl::string_view text) {
  const absl::StatusOr<storage::BlobPath> path = storage::BlobPath::Parse(text);
  if (!path.ok()) return;
  KEEPSTEP_CHECK(path->text() == text, "a path changed");
  for (const absl::string_view part : absl::StrSplit(text, '/')) {
    KEEPSTEP_CHECK(!part.empty() && part != "." && part != "..", "a path that leaves its root");
  }
  const absl::StatusOr<storage::BlobPath> joined =
      path->Parent().is_root() ? storage::BlobPath::Parse(path->Leaf()) : path->Parent().Join(path->Leaf());
  KEEPSTEP_CHECK(joined.ok() && *joined == *path, "a path is not its parent and its leaf");
}

void CheckJobNames(absl::string_view text) {
  if (const auto attempt = storage::ParseAttempt(text)) {
    KEEPSTEP_CHECK(storage::AttemptName(*attempt) == text, "an attempt has two names");
  }
  if (const auto step = storage::ParseStep(text)) {
    KEEPSTEP_CHECK(storage::StepName(*step) == text, "a step has two names");
  }
  if (const auto epoch = storage::ParseEpoch(text)) {
    KEEPSTEP_CHECK(absl::EndsWith(storage::EpochDir(*epoch), text), "an epoch has two names");
  }
  if (const auto part = storage::ParsePartName(text)) {
    KEEPSTEP_CHECK(storage::PartName(*part) == text, "a part has two names");
  }
}

void CheckEntry(absl::string_view text) {
  if (const auto entry = storage::ParseEntryName(text)) {
    KEEPSTEP_CHECK(storage::EntryName(entry->first, entry->second) == text, "an entry has two names");
  }
  if (!reshard::ValidateTensorName(text).ok()) return;
  const auto back = storage::ParseEntryName(storage::EntryName(text, 7));
  KEEPSTEP_CHECK(back.has_value() && back->first == text && back->second == 7, "a tensor's name was lost");
}

}  // namespace
}  // namespace keepstep::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  keepstep::fuzz::CheckPath(text);
  keepstep::fuzz::CheckJobNames(text);
  keepstep::fuzz::CheckEntry(text);
  return 0;
}
