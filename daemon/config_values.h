// Sizes and durations as people write them: "64GiB", "30s". Pure.

#ifndef KEEPSTEP_DAEMON_CONFIG_VALUES_H_
#define KEEPSTEP_DAEMON_CONFIG_VALUES_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace keepstep::daemon {

// A whole number and a unit: B (or none), KiB, MiB, GiB, TiB, or kB, MB, GB, TB. INVALID_ARGUMENT says what
// is wrong.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);
std::string ShowBytes(int64_t bytes);  // in the largest binary unit that divides it: ParseBytes reads it back

// A whole number and a unit, which is not optional: ms, s, min, h, d.
absl::StatusOr<int64_t> ParseMillis(absl::string_view text);
std::string ShowMillis(int64_t millis);

// A whole number. INVALID_ARGUMENT.
absl::StatusOr<int64_t> ParseCount(absl::string_view text);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_CONFIG_VALUES_H_
