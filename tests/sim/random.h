// The simulation's only source of chance: splitmix64, so that a seed is a whole run.

#ifndef KEEPSTEP_TESTS_SIM_RANDOM_H_
#define KEEPSTEP_TESTS_SIM_RANDOM_H_

#include <cstdint>

namespace keepstep::sim {

inline uint64_t Mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(Mix(seed + 0x9e3779b97f4a7c15)) {}

  uint64_t Next() { return Mix(state_ += 0x9e3779b97f4a7c15); }
  int64_t Below(int64_t limit) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(limit)); }
  int64_t Between(int64_t low, int64_t high) { return low + Below(high - low + 1); }
  bool Chance(double probability) {
    return static_cast<double>(Next() >> 11) < probability * 9007199254740992.0;
  }

 private:
  uint64_t state_;
};

}  // namespace keepstep::sim

#endif  // KEEPSTEP_TESTS_SIM_RANDOM_H_
