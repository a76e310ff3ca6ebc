// Linked into a keepstepd for tests: ends or stops the process at a chosen point, and counts how often each
// was passed.
//
//   KEEPSTEP_FAILPOINT=POINT[:n[:stop]]   at the nth pass (default 1) of a point, by number or name, the
//   process ends as
//                                         SIGKILL would end it, or is stopped by SIGSTOP
//   KEEPSTEP_FAILPOINT=list               prints every point with its number, and exits
//   KEEPSTEP_FAILPOINT_CONTROL=FILE       the control block below, shared with whoever drives the test:
//   points are armed while
//                                         the daemon runs, and passes are read
//
// Ending is exit_group(137): no destructor, no flush, not an instruction more on any thread.

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <atomic>
#include <string>

#include "tests/crash/point.h"
#include "tests/crash/seam.h"

namespace keepstep::crash {
namespace {

constexpr int kKilled = 137;

// As tests/crash/control.py lays it out.
struct Control {
  std::atomic<uint32_t> armed{0};  // 0: none; 1: any point that changes something; 2 + number
  std::atomic<uint32_t> left{0};   // passes until it fires
  std::atomic<uint32_t> stop{0};   // 1: SIGSTOP instead of the end
  std::atomic<uint32_t> fired{0};  // 1 + number of the point that fired
  std::atomic<uint32_t> passes[kPoints] = {};
};
static_assert(sizeof(Control) == 16 + 4 * kPoints);

[[noreturn]] void Fatal(const char* what) {
  fprintf(stderr, "failpoints: %s\n", what);
  _exit(2);
}

class Failpoints : public Hook {
 public:
  explicit Failpoints(Control* control) : control_(*control) {}

  Verdict Before(const Passing& passing) override {
    Pass(PointNumber(passing.call, passing.target, false), Changes(passing.call));
    return {};
  }
  int After(const Passing& passing) override {
    Pass(PointNumber(passing.call, passing.target, true), Changes(passing.call));
    return 0;
  }

 private:
  void Pass(int number, bool changes) {
    control_.passes[number].fetch_add(1, std::memory_order_relaxed);
    const uint32_t armed = control_.armed.load();
    const bool mine = armed == 2 + static_cast<uint32_t>(number) || (armed == 1 && changes);
    if (!mine || control_.left.fetch_sub(1) != 1) return;
    control_.armed.store(0);
    control_.fired.store(1 + static_cast<uint32_t>(number));
    if (control_.stop.load() == 0) Raw(SYS_exit_group, kKilled);
    Raw(SYS_kill, Raw(SYS_getpid), SIGSTOP);
  }

  Control& control_;
};

Control* MapControl(const char* path) {
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  void* memory =
      fd < 0 ? MAP_FAILED : mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) Fatal("KEEPSTEP_FAILPOINT_CONTROL cannot be mapped");
  return static_cast<Control*>(memory);
}

void Arm(const std::string& text, Control& control) {
  if (text == "list") {
    for (int number = 0; number < kPoints; ++number) printf("%d %s\n", number, PointName(number).c_str());
    fflush(stdout);
    _exit(0);
  }
  const size_t colon = text.find(':');
  const auto number = FindPoint(text.substr(0, colon));
  if (!number.has_value()) Fatal("KEEPSTEP_FAILPOINT names no point; KEEPSTEP_FAILPOINT=list shows them");
  const std::string rest = colon == std::string::npos ? "" : text.substr(colon + 1);
  control.stop = rest.find(":stop") != std::string::npos ? 1 : 0;
  control.left = rest.empty() ? 1 : static_cast<uint32_t>(strtoul(rest.c_str(), nullptr, 10));
  control.armed = 2 + static_cast<uint32_t>(*number);
}

// Before main, so that no call is missed.
const bool installed = [] {
  static Control own;
  const char* shared = getenv("KEEPSTEP_FAILPOINT_CONTROL");
  Control* const control = shared == nullptr ? &own : MapControl(shared);
  if (const char* text = getenv("KEEPSTEP_FAILPOINT"); text != nullptr) Arm(text, *control);
  static Failpoints hook(control);
  SetHook(&hook);
  return true;
}();

}  // namespace
}  // namespace keepstep::crash
