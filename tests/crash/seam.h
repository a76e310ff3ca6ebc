// Every call with which a program touches storage, with a hook around it.
//
// seam.cc defines libc's own names (fsync, linkat, openat2 by way of syscall, …). The dynamic linker takes a
// program's definitions before a library's, so a test binary that links it sees the calls of Keepstep's code
// and of RocksDB alike, and the product has not a line for it. Writes through io_uring are no calls: use the
// engine of threads.
//
// x86-64 Linux alone, as Keepstep is.

#ifndef KEEPSTEP_TESTS_CRASH_SEAM_H_
#define KEEPSTEP_TESTS_CRASH_SEAM_H_

#include <cstddef>

#include "tests/crash/point.h"

namespace keepstep::crash {

// One call about to be made, or made.
struct Passing {
  Call call;
  Target target;
  int fd;            // the file's or directory's, -1: named by path
  const char* path;  // absolute
};

// What becomes of a call.
struct Verdict {
  int error = 0;  // fail with this errno value, without doing anything (a close is done all the same)
  size_t most_bytes = SIZE_MAX;  // that a read or write may move
};

class Hook {
 public:
  virtual ~Hook() = default;
  // Called on any thread, between any two instructions of the program: must not allocate locks that the
  // program holds, nor touch storage but by Raw calls.
  virtual Verdict Before(const Passing& passing) = 0;
  // After a call that succeeded: an errno value to report in spite of that, as when a reply is lost; else 0.
  virtual int After(const Passing& passing) = 0;
};

// Null: calls go through. The hook outlives every call.
void SetHook(Hook* hook);

// A system call without a hook: its result, or a negative errno value.
long Raw(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0);

}  // namespace keepstep::crash

#endif  // KEEPSTEP_TESTS_CRASH_SEAM_H_
