// KEEPSTEP_CHECK aborts with a message when an invariant of this program is broken. It stays in release
// builds: a checkpoint written on top of a broken invariant is worse than none. Input from outside is never
// checked with it.

#ifndef KEEPSTEP_RESHARD_CHECK_H_
#define KEEPSTEP_RESHARD_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace keepstep::reshard {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition, const char* message) {
  std::fprintf(stderr, "%s:%d: check failed: %s: %s\n", file, line, condition, message);
  std::abort();
}

}  // namespace keepstep::reshard

#define KEEPSTEP_CHECK(condition, message)                                       \
  do {                                                                           \
    if (!(condition)) [[unlikely]]                                               \
      ::keepstep::reshard::CheckFailed(__FILE__, __LINE__, #condition, message); \
  } while (false)

#endif  // KEEPSTEP_RESHARD_CHECK_H_
