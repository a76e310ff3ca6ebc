#include "reshard/flat.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "reshard/check.h"

namespace keepstep::reshard {
namespace {

class Decomposer {
 public:
  explicit Decomposer(const Box& of) : of_(of), inner_(of.shape.size() + 1, 1) {
    for (size_t d = of.shape.size(); d > 0; --d) inner_[d - 1] = inner_[d] * of.shape[d - 1];
  }

  // Elements [begin, end) of the sub-box that `prefix` has narrowed to one index in all dimensions before
  // `dim`.
  void Decompose(size_t dim, Box prefix, int64_t begin, int64_t end) {
    if (begin == end) return;
    if (begin == 0 && end == inner_[dim]) {
      boxes_.push_back(prefix);
      return;
    }
    const int64_t row = inner_[dim + 1];
    const int64_t first = begin / row;
    const int64_t last = end / row;
    if (first == last) {
      Decompose(dim + 1, Narrow(prefix, dim, first, 1), begin % row, end % row);
      return;
    }
    const bool has_head = begin % row != 0;
    if (has_head) Decompose(dim + 1, Narrow(prefix, dim, first, 1), begin % row, row);
    const int64_t first_whole = first + (has_head ? 1 : 0);
    if (first_whole < last) boxes_.push_back(Narrow(prefix, dim, first_whole, last - first_whole));
    if (end % row != 0) Decompose(dim + 1, Narrow(prefix, dim, last, 1), 0, end % row);
  }

  std::vector<Box> Take() { return std::move(boxes_); }

 private:
  Box Narrow(Box box, size_t dim, int64_t index, int64_t extent) const {
    box.origin[dim] = of_.origin[dim] + index;
    box.shape[dim] = extent;
    return box;
  }

  const Box& of_;
  std::vector<int64_t> inner_;  // elements of one sub-box with the dimensions before d fixed
  std::vector<Box> boxes_;
};

}  // namespace

absl::Status ValidateFlatRange(const Box& of, int64_t begin, int64_t end) {
  if (begin < 0 || begin > end || end > NumElements(of)) {
    return absl::InvalidArgumentError(absl::StrCat("the flat range [", begin, ", ", end,
                                                   ") does not lie in the ", NumElements(of), " elements of ",
                                                   ToString(of)));
  }
  return absl::OkStatus();
}

std::vector<Box> DecomposeFlatRange(const Box& of, int64_t begin, int64_t end) {
  KEEPSTEP_CHECK(ValidateFlatRange(of, begin, end).ok(), "a flat range was not validated");
  Decomposer decomposer(of);
  decomposer.Decompose(0, of, begin, end);
  return decomposer.Take();
}

}  // namespace keepstep::reshard
