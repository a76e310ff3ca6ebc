// LoadPlan: which part of which stored extent fills which part of a wanted box, whatever layout wrote it.
//
// The regions of one wanted box are disjoint and together are the whole of it, or the plan is refused (or,
// where the caller allows partial loads, says what is missing).

#ifndef KEEPSTEP_RESHARD_LOAD_PLAN_H_
#define KEEPSTEP_RESHARD_LOAD_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "reshard/box.h"
#include "reshard/coverage.h"
#include "reshard/tensor.h"

namespace keepstep::reshard {

struct StoredBox {
  Box box;
  uint32_t extent = 0;  // the caller's index; the extent holds the box packed, row-major
};

struct StoredTensor {
  TensorMeta meta;
  std::vector<StoredBox> boxes;
};

// Copy `region` out of the extent that holds `stored` into box `box` of wanted shard `shard`.
struct ReadItem {
  uint32_t shard = 0;
  uint32_t box = 0;
  uint32_t extent = 0;
  const Box* stored = nullptr;  // of what `lookup` gave
  Box region;
};

// What a partial load leaves as it was.
struct Missing {
  uint32_t shard = 0;
  bool absent = false;  // the whole tensor
  std::string closest;  // the most similar stored name when absent, or empty
  Holes holes;          // the uncovered parts of the wanted boxes when it is not
};

struct LoadPlan {
  std::vector<ReadItem> items;  // by wanted shard, then box, then the region's place in it
  std::vector<Missing> missing;
};

struct LoadOptions {
  bool allow_partial = false;
  absl::Span<const std::string> stored_names;  // to suggest one for an absent tensor; may be empty
};

// `lookup` gives the stored tensor of a name, or nullptr; it must stay valid as long as the plan. Wanted
// destinations that overlap are the caller's matter, as are the buffers' sizes (ValidateShard).
// INVALID_ARGUMENT: a wanted box outside its shape. NOT_FOUND: absent tensors, each with the closest stored
// name. FAILED_PRECONDITION: another dtype or global shape than stored; holes, listed; stored boxes that
// overlap. Lists in messages are bounded. allow_partial turns absent tensors and holes into `missing`.
absl::StatusOr<LoadPlan> MakeLoadPlan(absl::Span<const TensorShard> wanted,
                                      absl::FunctionRef<const StoredTensor*(absl::string_view fqn)> lookup,
                                      const LoadOptions& options = {});

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_LOAD_PLAN_H_
