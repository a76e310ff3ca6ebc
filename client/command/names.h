// How a person names a checkpoint: JOB/STEP, JOB/latest, JOB, or the same with a directory instead of JOB.

#ifndef KEEPSTEP_CLIENT_COMMAND_NAMES_H_
#define KEEPSTEP_CLIENT_COMMAND_NAMES_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace keepstep::client {

struct Name {
  std::string job;  // a label, or a directory when `is_directory`
  bool is_directory = false;
  std::optional<int64_t> step;
  bool latest = false;  // said, or implied by naming only a job
};

// A job part that holds a '/' or is "." or ".." is a directory; anything else is a label. INVALID_ARGUMENT:
// empty, or a step that does not fit.
absl::StatusOr<Name> ParseName(absl::string_view text);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_NAMES_H_
