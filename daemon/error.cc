#include "daemon/error.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace keepstep::daemon {
namespace {

constexpr char kStageUrl[] = "keepstep/stage";
constexpr char kRankUrl[] = "keepstep/rank";

std::string Payload(const absl::Status& status, const char* url) {
  const auto payload = status.GetPayload(url);
  return payload.has_value() ? std::string(*payload) : std::string();
}

bool IsReasonByte(char c) { return (c >= 'A' && c <= 'Z') || c == '_' || (c >= '0' && c <= '9'); }

absl::string_view LeadingReason(absl::string_view message) {
  size_t end = 0;
  while (end < message.size() && IsReasonByte(message[end])) ++end;
  constexpr size_t kShortest = 4;
  return end >= kShortest && end < message.size() && message[end] == ':' ? message.substr(0, end)
                                                                         : absl::string_view();
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, absl::string_view reason, absl::string_view message,
                       absl::string_view stage, int32_t rank) {
  absl::Status status(code, message);
  if (!reason.empty()) status.SetPayload(kReasonPayload, absl::Cord(reason));
  if (!stage.empty()) status.SetPayload(kStageUrl, absl::Cord(stage));
  if (rank >= 0) status.SetPayload(kRankUrl, absl::Cord(absl::StrCat(rank)));
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  if (std::string given = Payload(status, kReasonPayload); !given.empty()) return given;
  if (absl::string_view leading = LeadingReason(status.message()); !leading.empty())
    return std::string(leading);
  return absl::StatusCodeToString(status.code());
}

std::string StageOf(const absl::Status& status) { return Payload(status, kStageUrl); }

int32_t RankOf(const absl::Status& status) {
  int32_t rank = -1;
  return absl::SimpleAtoi(Payload(status, kRankUrl), &rank) ? rank : -1;
}

absl::Status Because(absl::Status status, absl::string_view reason, absl::string_view stage) {
  if (status.ok() || status.GetPayload(kReasonPayload).has_value()) return status;
  return MakeError(status.code(), reason, status.message(), stage);
}

absl::Status FromFailure(const Failure& failure) {
  if (failure.code == absl::StatusCode::kOk) return absl::OkStatus();
  return MakeError(failure.code, failure.reason, failure.message, failure.stage, failure.rank);
}

Failure ToFailure(const absl::Status& status) {
  return {.code = status.code(),
          .reason = ReasonOf(status),
          .message = std::string(status.message()),
          .stage = StageOf(status),
          .rank = RankOf(status)};
}

v1::Failure ToProto(const Failure& failure) {
  v1::Failure out;
  out.set_code(static_cast<int32_t>(failure.code));
  out.set_reason(failure.reason);
  out.set_message(failure.message);
  out.set_rank(failure.rank);
  out.set_stage(failure.stage);
  return out;
}

}  // namespace keepstep::daemon
