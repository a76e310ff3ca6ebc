#include "daemon/device/device_table.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace keepstep::daemon {

const DeviceTable::Entry* DeviceTable::Find(uint64_t address) const {
  auto after = std::upper_bound(entries_.begin(), entries_.end(), address,
                                [](uint64_t at, const Entry& entry) { return at < entry.address; });
  if (after == entries_.begin()) return nullptr;
  const Entry& entry = *std::prev(after);
  return address - entry.address < static_cast<uint64_t>(entry.size_bytes) ? &entry : nullptr;
}

std::string DeviceTable::Text() const {
  std::set<std::string> gpus;
  size_t ipc = 0;
  for (const Entry& entry : entries_) {
    gpus.insert(GpuName(entry.mapping->gpu()));
    if (entry.mapping->kind() == HandleKind::kIpc) ++ipc;
  }
  return absl::StrCat(ipc, " allocations by ipc, ", entries_.size() - ipc, " by vmm, of ", absl::StrJoin(gpus, ", "));
}

}  // namespace keepstep::daemon
