// The allocator that this program is linked with: tcmalloc in keepstepd, glibc's in tests, a sanitizer's under
// one.

#ifndef KEEPSTEP_DAEMON_HEAP_H_
#define KEEPSTEP_DAEMON_HEAP_H_

namespace keepstep::daemon {

// Gives the machine the memory that the allocator keeps of freed objects. May hold the allocator's locks for
// tens of milliseconds. Thread-safe.
void ReturnFreedHeap();

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_HEAP_H_
