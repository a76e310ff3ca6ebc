#include "daemon/rescue_steps.h"

#include <cstddef>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kRanksNamed = 8;

}  // namespace

std::string WhyNoRescue(absl::Span<const RankStep> ranks) {
  std::map<int64_t, int> at;  // ranks by step
  for (const RankStep& rank : ranks) {
    if (!rank.why.empty()) return absl::StrCat("rank ", rank.rank, ": ", rank.why);
    ++at[rank.step];
  }
  if (at.size() <= 1) return "";
  int64_t most = at.rbegin()->first;  // of equals, the later
  for (const auto& [step, count] : at) {
    if (count > at[most]) most = step;
  }
  std::vector<std::string> others;
  for (const RankStep& rank : ranks) {
    if (rank.step != most && others.size() < kRanksNamed)
      others.push_back(absl::StrCat("rank ", rank.rank, " was at step ", rank.step));
  }
  return absl::StrCat(absl::StrJoin(others, ", "), ", the others at ", most);
}

}  // namespace keepstep::daemon
