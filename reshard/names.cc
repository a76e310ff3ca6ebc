#include "reshard/names.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace keepstep::reshard {
namespace {

constexpr size_t kMaxCandidates = 16384;

void DropCommonEnds(absl::string_view& a, absl::string_view& b) {
  while (!a.empty() && !b.empty() && a.front() == b.front()) {
    a.remove_prefix(1);
    b.remove_prefix(1);
  }
  while (!a.empty() && !b.empty() && a.back() == b.back()) {
    a.remove_suffix(1);
    b.remove_suffix(1);
  }
}

}  // namespace

// One row of the table at a time, and of each row only the cells within `limit` of the diagonal.
size_t EditDistance(absl::string_view a, absl::string_view b, size_t limit) {
  DropCommonEnds(a, b);
  if (a.size() > b.size()) std::swap(a, b);
  if (b.size() - a.size() >= limit) return limit;
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = std::min(j, limit);
  for (size_t i = 1; i <= a.size(); ++i) {
    const size_t first = i > limit ? i - limit : 1;
    const size_t last = std::min(b.size(), i + limit);
    size_t diagonal = row[first - 1];
    row[first - 1] = first == 1 ? std::min(i, limit) : limit;
    size_t best = row[first - 1];
    for (size_t j = first; j <= last; ++j) {
      const size_t substitute = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substitute, row[j] + 1, row[j - 1] + 1, limit});
      best = std::min(best, row[j]);
    }
    if (best >= limit) return limit;
  }
  return row[b.size()];
}

std::string ClosestName(absl::string_view name, absl::Span<const std::string> candidates) {
  size_t limit = name.size() / 2 + 1;
  std::string closest;
  for (const std::string& candidate : candidates.subspan(0, kMaxCandidates)) {
    const size_t distance = EditDistance(name, candidate, limit);
    if (distance >= limit) continue;
    limit = distance;
    closest = candidate;
    if (limit == 0) break;
  }
  return closest;
}

}  // namespace keepstep::reshard
