// A job as an argument: a label, a directory, or JOB/STEP where a verb takes a step.

#ifndef KEEPSTEP_CLIENT_COMMAND_JOB_ARG_H_
#define KEEPSTEP_CLIENT_COMMAND_JOB_ARG_H_

#include <string>

#include "absl/status/statusor.h"
#include "client/command/names.h"

namespace keepstep::client {

// Empty text gives an empty name: every job. INVALID_ARGUMENT: a step where none belongs.
absl::StatusOr<Name> ParseJob(const std::string& text);
// INVALID_ARGUMENT without a step; `verb` is for the message.
absl::StatusOr<Name> ParseStep(const std::string& text, const std::string& verb);

// What a request calls the job: its label; empty for the session's directory, and for every job.
inline std::string JobOf(const Name& name) { return name.is_directory ? std::string() : name.job; }

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_JOB_ARG_H_
