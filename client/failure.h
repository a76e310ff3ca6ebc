// Errors inside the client: an absl::Status that also carries what a program matches (reason), where it
// happened (stage) and who is to blame (rank).

#ifndef KEEPSTEP_CLIENT_FAILURE_H_
#define KEEPSTEP_CLIENT_FAILURE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace keepstep::v1 {
class Failure;
}

namespace keepstep::client {

struct Blame {
  std::string reason;  // UPPER_SNAKE_CASE, an entry of docs/errors.md; empty: unknown
  std::string stage;
  int32_t rank = -1;
};

absl::Status MakeError(absl::StatusCode code, absl::string_view reason, absl::string_view message,
                       absl::string_view stage = "", int32_t rank = -1);

Blame BlameOf(const absl::Status& status);

absl::Status FromFailure(const v1::Failure& failure);
v1::Failure ToFailure(const absl::Status& status);

// The daemon may or may not have acted on the call: it did not answer, or the answer is that this session is
// unknown to it (a daemon that has restarted), which a resumed session settles.
bool OutcomeUnknown(const absl::Status& status);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_FAILURE_H_
