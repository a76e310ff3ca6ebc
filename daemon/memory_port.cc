#include "daemon/memory_port.h"

namespace keepstep::daemon {

void AppendRun(std::vector<MemoryRun>& runs, MemoryRun run) {
  if (run.size_bytes == 0) return;
  if (!runs.empty()) {
    MemoryRun& last = runs.back();
    if (last.address + last.size_bytes == run.address && last.local + last.size_bytes == run.local) {
      last.size_bytes += run.size_bytes;
      return;
    }
  }
  runs.push_back(run);
}

}  // namespace keepstep::daemon
