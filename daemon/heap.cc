#include "daemon/heap.h"

#include <malloc.h>

// gperftools' C interface; null where tcmalloc is not linked.
extern "C" void MallocExtension_ReleaseFreeMemory() __attribute__((weak));

namespace keepstep::daemon {

void ReturnFreedHeap() {
  if (MallocExtension_ReleaseFreeMemory != nullptr) {
    MallocExtension_ReleaseFreeMemory();
  } else {
    malloc_trim(0);
  }
}

}  // namespace keepstep::daemon
