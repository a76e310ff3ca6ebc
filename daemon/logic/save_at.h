// The step at which every rank saves on request: a wish (preemption, `keepstep save`) becomes one step for
// all ranks.
//
// save_at = highest step stored + max(2, twice the largest spread seen). Each rank reads it before that step,
// unless it ran ahead further than ever before: then it is found past it and that save fails, by name.

#ifndef KEEPSTEP_DAEMON_LOGIC_SAVE_AT_H_
#define KEEPSTEP_DAEMON_LOGIC_SAVE_AT_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

namespace keepstep::daemon {

class SaveAt {
 public:
  // Asks for a save. An earlier wish that is still ahead of every rank stands for this one too.
  void Wish() { wished_ = true; }

  // `stepped`: newest step of each rank, -1 for none. Returns the step to announce when this settles a wish.
  std::optional<int64_t> OnSteps(const std::vector<int64_t>& stepped) {
    if (stepped.empty()) return std::nullopt;
    const auto [low, high] = std::minmax_element(stepped.begin(), stepped.end());
    if (*low < 0) return std::nullopt;  // a rank that never asks would never see the wish
    spread_ = std::max(spread_, *high - *low);
    if (!wished_) return std::nullopt;
    wished_ = false;
    if (*high >= step_) step_ = *high + std::max<int64_t>(2, 2 * spread_);
    return step_;
  }

  int64_t step() const { return step_; }  // -1: none yet

 private:
  bool wished_ = false;
  int64_t spread_ = 0;
  int64_t step_ = -1;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_LOGIC_SAVE_AT_H_
