// Patterns of tensor names: `*` is any run of bytes, `?` any one byte, everything else itself.
//
// Not fnmatch: its time can grow with the power of the number of stars, and patterns come from callers.

#ifndef KEEPSTEP_DAEMON_NAME_PATTERN_H_
#define KEEPSTEP_DAEMON_NAME_PATTERN_H_

#include "absl/strings/string_view.h"

namespace keepstep::daemon {

// Pure. At most |pattern| · |name| steps.
bool MatchesPattern(absl::string_view pattern, absl::string_view name);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_NAME_PATTERN_H_
