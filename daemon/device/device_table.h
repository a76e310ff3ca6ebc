// Where a session's GPU memory lies in its own addresses: what a registration holds, and a copy looks up.

#ifndef KEEPSTEP_DAEMON_DEVICE_DEVICE_TABLE_H_
#define KEEPSTEP_DAEMON_DEVICE_DEVICE_TABLE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/device/mapping.h"
#include "daemon/host_nodes.h"

namespace keepstep::daemon {

// Immutable.
class DeviceTable {
 public:
  // Bytes [address, address + size_bytes) of the trainer are those of the mapping, from its begin on.
  struct Entry {
    uint64_t address = 0;
    int64_t size_bytes = 0;
    std::shared_ptr<Mapping> mapping;
  };

  // `entries` by address, none over another. `node`: near which most of their bytes are (daemon/host_nodes.h).
  explicit DeviceTable(std::vector<Entry> entries, int node = kAnyNode) : entries_(std::move(entries)), node_(node) {}

  // The entry that holds `address`, or null: it is host memory.
  const Entry* Find(uint64_t address) const;
  const std::vector<Entry>& entries() const { return entries_; }
  int node() const { return node_; }

  // "3 allocations by ipc, 2 by vmm, of GPU-8f8e…", for the log.
  std::string Text() const;

 private:
  const std::vector<Entry> entries_;
  const int node_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_DEVICE_TABLE_H_
