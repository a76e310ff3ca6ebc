#include "daemon/device/stretches.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace keepstep::daemon {
namespace {

uint64_t EndOf(const PieceAt& piece) { return piece.offset_bytes + static_cast<uint64_t>(piece.size_bytes); }

bool Continues(const Stretch& stretch, const PieceAt& piece, int64_t limit_bytes) {
  const uint64_t end = stretch.offset_bytes + static_cast<uint64_t>(stretch.size_bytes);
  return stretch.memory == piece.memory && piece.offset_bytes <= end + kMaxGapBytes &&
         EndOf(piece) - stretch.offset_bytes <= static_cast<uint64_t>(limit_bytes);
}

}  // namespace

Stretches FindStretches(absl::Span<const PieceAt> pieces, int64_t limit_bytes) {
  Stretches found;
  std::vector<size_t> small;
  for (size_t i = 0; i < pieces.size(); ++i) {
    (pieces[i].size_bytes <= std::min(kMaxSmallBytes, limit_bytes) ? small : found.alone).push_back(i);
  }
  std::stable_sort(small.begin(), small.end(), [&](size_t a, size_t b) {
    return std::tie(pieces[a].memory, pieces[a].offset_bytes) < std::tie(pieces[b].memory, pieces[b].offset_bytes);
  });
  for (size_t at = 0; at < small.size();) {
    const PieceAt& first = pieces[small[at]];
    Stretch stretch{first.memory, first.offset_bytes, 0, {}};
    for (; at < small.size() && Continues(stretch, pieces[small[at]], limit_bytes); ++at) {
      const PieceAt& piece = pieces[small[at]];
      stretch.size_bytes =
          std::max(stretch.size_bytes, static_cast<int64_t>(EndOf(piece) - stretch.offset_bytes));
      stretch.pieces.push_back(small[at]);
    }
    if (stretch.pieces.size() >= kFewestPieces) {
      found.stretches.push_back(std::move(stretch));
    } else {
      found.alone.insert(found.alone.end(), stretch.pieces.begin(), stretch.pieces.end());
    }
  }
  std::sort(found.alone.begin(), found.alone.end());
  return found;
}

}  // namespace keepstep::daemon
