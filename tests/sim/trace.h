// The story of a run: a hash always, lines when somebody wants to read them.

#ifndef KEEPSTEP_TESTS_SIM_TRACE_H_
#define KEEPSTEP_TESTS_SIM_TRACE_H_

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "daemon/logic/events.h"
#include "tests/sim/random.h"

namespace keepstep::sim {

// Appends one line for an event or an action.
void Describe(const daemon::Event& event, std::string& line);
void Describe(const daemon::Action& action, std::string& line);

class Trace {
 public:
  explicit Trace(bool print) : print_(print) {}

  template <class What>
  void Add(int64_t now, const What& what) {
    line_.clear();
    Describe(what, line_);
    AddLine(now, line_);
  }
  void AddLine(int64_t now, const std::string& line) {
    hash_ = Mix(hash_ ^ static_cast<uint64_t>(now));
    for (size_t begin = 0; begin < line.size(); begin += sizeof(uint64_t)) {
      uint64_t word = 0;
      std::memcpy(&word, line.data() + begin, std::min(sizeof word, line.size() - begin));
      hash_ = (hash_ ^ word) * 0x9e3779b97f4a7c15;
      hash_ ^= hash_ >> 32;
    }
    if (print_) std::printf("%8lld %s\n", static_cast<long long>(now), line.c_str());
  }
  uint64_t hash() const { return hash_; }

 private:
  const bool print_;
  uint64_t hash_ = 0xcbf29ce484222325;
  std::string line_;  // kept for its memory
};

}  // namespace keepstep::sim

#endif  // KEEPSTEP_TESTS_SIM_TRACE_H_
