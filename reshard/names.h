// Which stored name did the caller mean? For messages about absent tensors.

#ifndef KEEPSTEP_RESHARD_NAMES_H_
#define KEEPSTEP_RESHARD_NAMES_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace keepstep::reshard {

// Levenshtein distance in bytes; `limit` when it is at least that, found early.
size_t EditDistance(absl::string_view a, absl::string_view b, size_t limit);

// The candidate nearest to `name` (the first of equals), or "" when none is within half of its length. Looks
// at the first 16,384 candidates only.
std::string ClosestName(absl::string_view name, absl::Span<const std::string> candidates);

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_NAMES_H_
