// Linked into a keepstepd for tests: at a chosen point the process ends or stops, or the call fails; passes
// are counted.
//
//   KEEPSTEP_FAILPOINT=POINT[:n[:stop]]   at the nth pass (default 1) of a point, by number or name, the
//   process
//                                         ends as SIGKILL would end it, or is stopped by SIGSTOP
//   KEEPSTEP_FAILPOINT=list               prints every point with its number, and exits
//   KEEPSTEP_FAILPOINT_CONTROL=FILE       the control block below, shared with whoever drives the test:
//   points are
//                                         armed while the daemon runs, passes are read; also to make calls
//                                         fail
//
// Ending is exit_group(137): no destructor, no flush, not an instruction more on any thread. A call fails
// before it is made, or, at the point after it, is made and said to have failed.

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <atomic>
#include <string>

#include "tests/crash/point.h"
#include "tests/crash/seam.h"

namespace keepstep::crash {
namespace {

constexpr int kKilled = 137;

enum Action : uint32_t { kEnd = 0, kStop = 1, kFail = 2 };

// As tests/crash/control.py lays it out.
struct Control {
  std::atomic<uint32_t> armed{0};  // 0: none; 1: any point that changes something; 2 + number
  std::atomic<uint32_t> left{0};   // passes until it fires
  std::atomic<uint32_t> action{kEnd};
  std::atomic<uint32_t> fired{0};       // 1 + number of the point that fired
  std::atomic<uint32_t> error{0};       // kFail: errno value; 0: the call is only cut short
  std::atomic<uint32_t> most_bytes{0};  // kFail without an error: that a read or write may move
  std::atomic<uint32_t> forever{0};     // kFail: every later pass fails too
  std::atomic<uint32_t> drop{0};        // kFail: a sync that fails loses what the file held, as a kernel may
  std::atomic<uint32_t> passes[kPoints] = {};
};
static_assert(sizeof(Control) == 32 + 4 * kPoints);

[[noreturn]] void Fatal(const char* what) {
  fprintf(stderr, "failpoints: %s\n", what);
  _exit(2);
}

class Failpoints : public Hook {
 public:
  explicit Failpoints(Control* control) : control_(*control) {}

  Verdict Before(const Passing& passing) override {
    if (!Fires(passing, false)) return {};
    if (control_.error == 0) return {.most_bytes = control_.most_bytes};
    if (control_.drop != 0 && passing.call == Call::kSync) Drop(passing.fd);
    return {.error = static_cast<int>(control_.error)};
  }
  int After(const Passing& passing) override {
    return Fires(passing, true) ? static_cast<int>(control_.error) : 0;
  }

 private:
  // Whether this call is to fail; does not return if the process is to end here.
  bool Fires(const Passing& passing, bool after) {
    const int number = PointNumber(passing.call, passing.target, after);
    control_.passes[number].fetch_add(1, std::memory_order_relaxed);
    const uint32_t armed = control_.armed;
    const bool mine = armed == 2 + static_cast<uint32_t>(number) || (armed == 1 && Changes(passing.call));
    if (!mine) return false;
    const auto left = static_cast<int32_t>(control_.left.fetch_sub(1));
    const bool again = control_.action == kFail && control_.forever != 0 && left < 1;
    if (left != 1 && !again) return false;
    if (control_.action != kFail || control_.forever == 0) control_.armed = 0;
    control_.fired = 1 + static_cast<uint32_t>(number);
    if (control_.action == kEnd) Raw(SYS_exit_group, kKilled);
    if (control_.action == kStop) Raw(SYS_kill, Raw(SYS_getpid), SIGSTOP);
    return control_.action == kFail;
  }

  static void Drop(int fd) {
    struct stat about;
    if (Raw(SYS_fstat, fd, reinterpret_cast<long>(&about)) != 0 || !S_ISREG(about.st_mode)) return;
    Raw(SYS_ftruncate, fd, 0);
    Raw(SYS_ftruncate, fd, about.st_size);
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
  control.action = rest.find(":stop") != std::string::npos ? kStop : kEnd;
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
