#include "daemon/logic/retention.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace keepstep::daemon {
namespace {

std::string NewestReason(int64_t keep_last) {
  return keep_last == 1 ? "the newest" : absl::StrCat("one of the ", keep_last, " newest");
}

std::string OlderReason(const RetentionPolicy& policy) {
  return absl::StrCat("older than the ", policy.keep_last == 1 ? "" : absl::StrCat(policy.keep_last, " "),
                      "newest",
                      policy.keep_every == 0 ? "" : absl::StrCat(", and no multiple of ", policy.keep_every));
}

}  // namespace

std::optional<std::string> PolicyFault(const RetentionPolicy& policy) {
  if (policy.keep_last < 0 || policy.keep_last > kMaxKeepLast) {
    return absl::StrCat("keep_last=", policy.keep_last, " is not in 0..", kMaxKeepLast,
                        " (0 keeps everything).");
  }
  if (policy.keep_every < 0) {
    return absl::StrCat("keep_every=", policy.keep_every, " is negative; it is a number of steps.");
  }
  if (policy.keep_every > 0 && policy.keep_last == 0) {
    return "keep_every says what stays beyond the newest; say how many of those with keep_last.";
  }
  return std::nullopt;
}

std::string PolicyText(const RetentionPolicy& policy) {
  if (policy.none()) return "keep everything";
  return absl::StrCat("keep_last=", policy.keep_last,
                      policy.keep_every == 0 ? "" : absl::StrCat(", keep_every=", policy.keep_every));
}

std::vector<RetentionDecision> PlanRetention(const RetentionInput& input) {
  const RetentionPolicy& policy = input.policy;
  std::vector<RetentionDecision> plan(input.commits.size());
  std::set<std::pair<int64_t, int64_t>> seen;  // epoch and step: the newest attempt stands for it
  std::set<int64_t> steps;                     // the newest epoch's stands for a step that is kept for good
  int64_t newest = 0;
  for (size_t i = input.commits.size(); i-- > 0;) {  // newest first
    const StoredCommit& commit = input.commits[i];
    RetentionDecision& decision = plan[i];
    decision = {.epoch = commit.epoch, .step = commit.step, .attempt = commit.attempt, .bytes = commit.bytes};
    const auto used = input.in_use.find(commit.attempt);
    const bool counts = !commit.deleting && !commit.uncertain && !commit.rescue;
    const bool stands = counts && seen.emplace(commit.epoch, commit.step).second;
    const bool among_newest = stands && newest++ < policy.keep_last;
    const bool first_of_step = stands && steps.insert(commit.step).second;
    if (commit.deleting) {
      decision.keep = false;
      decision.begun = true;
      decision.reason = "its deletion had begun";
    } else if (policy.none()) {
      decision.reason = "the job has no retention policy";
    } else if (!commit.pins.empty()) {
      decision.reason = absl::StrCat("pinned by ", absl::StrJoin(commit.pins, ", "));
    } else if (among_newest) {
      decision.reason = NewestReason(policy.keep_last);
    } else if (policy.keep_every > 0 && first_of_step && commit.step % policy.keep_every == 0) {
      decision.reason = absl::StrCat("step ", commit.step, " is a multiple of ", policy.keep_every);
    } else if (commit.attempt == input.last_good) {
      decision.reason = "the last good checkpoint";
    } else if (used != input.in_use.end()) {
      decision.reason = used->second;
    } else if (commit.uncertain) {
      decision.reason = "its durability is uncertain; a restart of the daemon settles it";
    } else {
      decision.keep = false;
      decision.reason = commit.rescue ? "a rescue, and a later checkpoint is there"
                        : stands      ? OlderReason(policy)
                                      : "the same run saved this step again";
      if (stands && !first_of_step)
        decision.reason = absl::StrCat("step ", commit.step, " was saved again by a later run");
    }
  }
  return plan;
}

}  // namespace keepstep::daemon
