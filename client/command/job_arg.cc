#include "client/command/job_arg.h"

#include "absl/strings/str_cat.h"

namespace keepstep::client {

absl::StatusOr<Name> ParseJob(const std::string& text) {
  if (text.empty()) return Name();
  auto name = ParseName(text);
  if (name.ok() && name->step.has_value())
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' names a step; this takes a job"));
  return name;
}

absl::StatusOr<Name> ParseStep(const std::string& text, const std::string& verb) {
  auto name = ParseName(text);
  if (name.ok() && !name->step.has_value())
    return absl::InvalidArgumentError(absl::StrCat(verb, " takes one step by number, as JOB/STEP"));
  return name;
}

}  // namespace keepstep::client
