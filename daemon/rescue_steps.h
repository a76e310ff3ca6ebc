// Whether the ranks of a dead world were whole at one step: the rule, apart from how it is known of each.

#ifndef KEEPSTEP_DAEMON_RESCUE_STEPS_H_
#define KEEPSTEP_DAEMON_RESCUE_STEPS_H_

#include <cstdint>
#include <string>

#include "absl/types/span.h"

namespace keepstep::daemon {

struct RankStep {
  int32_t rank = 0;
  int64_t step = -1;  // at which its memory is whole; -1: at none
  std::string why;    // completes "rank 2: …"; empty: it is whole
};

// Why the ranks are not at one step: "rank 2 was at step 41, the others at 42". Empty: they are.
std::string WhyNoRescue(absl::Span<const RankStep> ranks);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_RESCUE_STEPS_H_
