#include "client/failure.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/types.pb.h"

namespace keepstep::client {
namespace {

constexpr char kReasonUrl[] = "keepstep/reason";
constexpr char kStageUrl[] = "keepstep/stage";
constexpr char kRankUrl[] = "keepstep/rank";

std::string Payload(const absl::Status& status, const char* url) {
  const auto payload = status.GetPayload(url);
  return payload.has_value() ? std::string(*payload) : std::string();
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, absl::string_view reason, absl::string_view message,
                       absl::string_view stage, int32_t rank) {
  absl::Status status(code, message);
  if (!reason.empty()) status.SetPayload(kReasonUrl, absl::Cord(reason));
  if (!stage.empty()) status.SetPayload(kStageUrl, absl::Cord(stage));
  if (rank >= 0) status.SetPayload(kRankUrl, absl::Cord(absl::StrCat(rank)));
  return status;
}

Blame BlameOf(const absl::Status& status) {
  Blame blame{.reason = Payload(status, kReasonUrl), .stage = Payload(status, kStageUrl)};
  if (!absl::SimpleAtoi(Payload(status, kRankUrl), &blame.rank)) blame.rank = -1;
  return blame;
}

absl::Status FromFailure(const v1::Failure& failure) {
  const auto code =
      failure.code() == 0 ? absl::StatusCode::kUnknown : static_cast<absl::StatusCode>(failure.code());
  return MakeError(code, failure.reason(), failure.message(), failure.stage(), failure.rank());
}

v1::Failure ToFailure(const absl::Status& status) {
  const Blame blame = BlameOf(status);
  v1::Failure failure;
  failure.set_code(static_cast<int32_t>(status.code()));
  failure.set_reason(blame.reason);
  failure.set_message(std::string(status.message()));
  failure.set_rank(blame.rank);
  failure.set_stage(blame.stage);
  return failure;
}

bool OutcomeUnknown(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnauthenticated:
      return true;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kInternal:
      return BlameOf(status).reason.empty();
    default:
      return false;
  }
}

}  // namespace keepstep::client
