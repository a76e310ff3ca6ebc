// Coverage: whether boxes tile a region, and what is missing if they do not. Checked when a layout is
// planned, so that a missing rank is an error at save and not, months later, at load.

#ifndef KEEPSTEP_RESHARD_COVERAGE_H_
#define KEEPSTEP_RESHARD_COVERAGE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "reshard/box.h"

namespace keepstep::reshard {

inline constexpr size_t kMaxListedHoles = 8;

// Disjoint boxes that together are exactly what is missing, unless `complete` is false (more of them than
// were listed).
struct Holes {
  std::vector<Box> boxes;
  bool complete = true;
};

// What `boxes` leave uncovered of `region`, at most `max_holes` boxes of it. Boxes may overlap and leave the
// region. The time is bounded even for arrangements chosen to be slow; the answer is then incomplete.
// REQUIRES: valid boxes of as many dimensions as `region`.
Holes FindHoles(const Box& region, absl::Span<const Box> boxes, size_t max_holes = kMaxListedHoles);

// "[0:4, 0:8], [4:8, 0:2], …"
std::string ToString(const Holes& holes);

// OK when the boxes cover `shape` with no element twice. INVALID_ARGUMENT: a box outside the shape, or two
// that overlap (both named). FAILED_PRECONDITION: holes, of which it lists kMaxListedHoles.
absl::Status CheckCoverage(const Dims& shape, absl::Span<const Box> boxes);

}  // namespace keepstep::reshard

#endif  // KEEPSTEP_RESHARD_COVERAGE_H_
