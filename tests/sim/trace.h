// The story of a run: a hash always, lines when somebody wants to read them.

#ifndef KEEPSTEP_TESTS_SIM_TRACE_H_
#define KEEPSTEP_TESTS_SIM_TRACE_H_

#include <cstdint>
#include <cstdio>
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
    for (char c : line) hash_ = (hash_ ^ static_cast<unsigned char>(c)) * 0x100000001b3;
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
