#include "daemon/logic/failures.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace keepstep::daemon {

Failure MakeFailure(absl::StatusCode code, absl::string_view reason, absl::string_view message,
                    absl::string_view stage, int32_t rank) {
  return {.code = code,
          .reason = std::string(reason),
          .message = std::string(message),
          .stage = std::string(stage),
          .rank = rank};
}

Failure IoFailure(const absl::Status& status, absl::string_view stage, int32_t rank) {
  const auto given = status.GetPayload(kReasonPayload);
  const std::string reason = given ? std::string(*given) : absl::StatusCodeToString(status.code());
  return MakeFailure(status.code(), reason, status.message(), stage, rank);
}

Failure StaleEpoch(int64_t current_epoch) {
  return MakeFailure(
      absl::StatusCode::kAborted, "STALE_EPOCH",
      absl::StrCat("The job is in epoch ", current_epoch,
                   " now: another run has taken it over. Start this rank again to join that one."),
      "epoch");
}

Failure RanksMissing(const std::vector<int32_t>& ranks, absl::string_view stage) {
  return MakeFailure(absl::StatusCode::kUnavailable, "RANKS_MISSING",
                     absl::StrCat("Waited in vain for rank ", RankList(ranks),
                                  " to join. Start every rank of the world, then try again."),
                     stage, ranks.empty() ? -1 : ranks.front());
}

Failure LostByRestart(uint64_t number) {
  return MakeFailure(absl::StatusCode::kAborted, "LOST_BY_RESTART",
                     absl::StrCat("keepstepd restarted, or a rank lost its session, before save ", number,
                                  " was durable. Earlier checkpoints are intact; save again."),
                     "recover");
}

Failure RetentionDiffers(int32_t rank, const RetentionPolicy& asked, const RetentionPolicy& in_force) {
  return MakeFailure(
      absl::StatusCode::kFailedPrecondition, "RETENTION_DIFFERS",
      absl::StrCat("Rank ", rank, " asks for ", PolicyText(asked), ", but the ranks before it for ",
                   PolicyText(in_force), ". Give every rank the same keep_last and keep_every."),
      "open", rank);
}

Failure Draining() {
  return MakeFailure(absl::StatusCode::kUnavailable, "DRAINING",
                     "keepstepd is shutting down and takes no new saves. Save again after its restart.",
                     "accept");
}

Failure Recovering() {
  return MakeFailure(absl::StatusCode::kUnavailable, "RECOVERING",
                     "keepstepd is settling what an earlier run left and storage does not answer. Try again; "
                     "`keepstep doctor` checks the storage.",
                     "recover");
}

Failure NotRegistered(int32_t rank) {
  return MakeFailure(
      absl::StatusCode::kFailedPrecondition, "NOT_REGISTERED",
      absl::StrCat("Rank ", rank, " has registered nothing. Register on every rank, then save."), "accept",
      rank);
}

std::string RankList(const std::vector<int32_t>& ranks) {
  constexpr size_t kShown = 8;
  std::string text;
  for (size_t i = 0; i < ranks.size() && i < kShown; ++i) {
    const bool last = i + 1 == ranks.size();
    absl::StrAppend(&text, i == 0 ? "" : last ? " and " : ", ", ranks[i]);
  }
  if (ranks.size() > kShown) absl::StrAppend(&text, " and ", ranks.size() - kShown, " more");
  return text;
}

}  // namespace keepstep::daemon
