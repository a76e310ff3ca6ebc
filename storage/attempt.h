// The names of everything in a job's directory, and the way back from a name to what it means.
//
//   epochs/<E>/{CLAIM,LATEST,PARENT}    <step, 12 digits>/<attempt>/{model-…,part-…,DECISION,DELETING}
//   <step>/pins/<id>                    <attempt> = e<epoch>-a<counter>-<16 hex>
//
// Invariant: a parser accepts exactly what its formatter writes (no leading zeros, no capitals), so a name
// has one meaning and junk directories have none. All paths are valid BlobPath texts relative to the job's
// directory.

#ifndef KEEPSTEP_STORAGE_ATTEMPT_H_
#define KEEPSTEP_STORAGE_ATTEMPT_H_

#include <compare>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "reshard/tensor.h"

namespace keepstep::storage {

inline constexpr int64_t kMaxStep = 999'999'999'999;
inline constexpr int32_t kMaxParts = 1 << 16;
inline constexpr char kEpochsDir[] = "epochs";
inline constexpr char kPinsDir[] = "pins";
inline constexpr char kDecisionName[] = "DECISION";
inline constexpr char kDeletingName[] = "DELETING";
inline constexpr char kReservePath[] = "epochs/RESERVE";  // holds no data (reserve.h)
inline constexpr int64_t kReserveBytes = 256 << 10;

// One try at saving a step. Of two attempts of one step the greater is the later one.
struct AttemptId {
  int64_t epoch = 0;
  int64_t counter = 0;
  uint64_t random = 0;

  friend auto operator<=>(const AttemptId&, const AttemptId&) = default;
};

std::string AttemptName(const AttemptId& attempt);
std::optional<AttemptId> ParseAttempt(absl::string_view name);

// REQUIRES: 0 <= step <= kMaxStep.
std::string StepName(int64_t step);
std::optional<int64_t> ParseStep(absl::string_view name);

std::optional<int64_t> ParseEpoch(absl::string_view name);  // of a directory beneath epochs/

std::string AttemptDir(int64_t step, absl::string_view attempt);
std::string DecisionPath(int64_t step, absl::string_view attempt);
std::string DeletingPath(int64_t step, absl::string_view attempt);
std::string PinsPath(int64_t step);
std::string EpochDir(int64_t epoch);
std::string ClaimPath(int64_t epoch);
std::string LatestPath(int64_t epoch);
std::string ParentPath(int64_t epoch);

// Leaves in an attempt's directory: `model-00003-of-00016.safetensors` (rank from 0, as the ranks are
// numbered) and `part-<index>.pb`. `rewrite` > 0 adds `-r<n>`: a new file for bytes whose flush failed.
std::string BlobName(reshard::Component component, int32_t rank, int32_t world_size, int32_t rewrite = 0);
std::string PartName(uint32_t index);
std::optional<uint32_t> ParsePartName(absl::string_view name);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_ATTEMPT_H_
