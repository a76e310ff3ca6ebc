#include "daemon/device/device_table.h"

#include <algorithm>

namespace keepstep::daemon {

const DeviceTable::Entry* DeviceTable::Find(uint64_t address) const {
  auto after = std::upper_bound(entries_.begin(), entries_.end(), address,
                                [](uint64_t at, const Entry& entry) { return at < entry.address; });
  if (after == entries_.begin()) return nullptr;
  const Entry& entry = *std::prev(after);
  return address - entry.address < static_cast<uint64_t>(entry.size_bytes) ? &entry : nullptr;
}

}  // namespace keepstep::daemon
