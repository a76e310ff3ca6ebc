// A wall clock that a test moves: loaded into a program by LD_PRELOAD, it adds what a file says to every wall
// time.
//
// KEEPSTEP_CLOCK_FILE names a file of eight bytes, the nanoseconds to add, as the machine writes them. The
// monotonic clocks are the kernel's. What sleeps until a wall time in the kernel sees the kernel's own: it
// would wake late or early, as after a real jump.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

namespace {

constexpr int64_t kSecondNs = 1'000'000'000;

const std::atomic<int64_t>* Offset() {
  static const auto* const offset = []() -> const std::atomic<int64_t>* {
    const char* path = getenv("KEEPSTEP_CLOCK_FILE");
    const int fd = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return nullptr;
    void* page = mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? nullptr : static_cast<const std::atomic<int64_t>*>(page);
  }();
  return offset;
}

timespec WallTime() {
  timespec now{};
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
  const std::atomic<int64_t>* offset = Offset();
  const int64_t moved = now.tv_sec * kSecondNs + now.tv_nsec + (offset == nullptr ? 0 : offset->load());
  return {.tv_sec = moved / kSecondNs, .tv_nsec = moved % kSecondNs};
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec* now) noexcept {
  if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)
    return static_cast<int>(syscall(SYS_clock_gettime, clock, now));
  *now = WallTime();
  return 0;
}

extern "C" int gettimeofday(timeval* now, void*) noexcept {
  const timespec wall = WallTime();
  *now = {.tv_sec = wall.tv_sec, .tv_usec = wall.tv_nsec / 1000};
  return 0;
}

extern "C" time_t time(time_t* out) noexcept {
  const time_t now = WallTime().tv_sec;
  if (out != nullptr) *out = now;
  return now;
}
