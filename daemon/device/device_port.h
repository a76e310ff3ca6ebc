// The port of a session that has registered GPU memory: what lies there goes by its GPU's worker, the rest by the
// session's port for host memory.
//
//   1. Before the first byte is read from a GPU, the save's fences are waited for.
//   2. Runs are cut where one allocation ends and the next begins.
//   3. Bytes that belong in a staging buffer are copied there by the GPU. Others (a gather's scratch) go by a bounce
//      slot of the pool.
//   4. Many small pieces side by side (stretches.h) are read as one, by a bounce slot too.
//   5. Whatever fails names the tensor.

#ifndef KEEPSTEP_DAEMON_DEVICE_DEVICE_PORT_H_
#define KEEPSTEP_DAEMON_DEVICE_DEVICE_PORT_H_

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/device/declared_memory.h"
#include "daemon/device/device_table.h"
#include "daemon/memory_port.h"

namespace keepstep::daemon {

class DevicePort : public MemoryPort {
 public:
  // `tensor_at` names what is registered at an address. `hub` outlives the port.
  DevicePort(DeviceHub* hub, std::shared_ptr<MemoryPort> host, std::shared_ptr<const DeviceTable> table,
             std::vector<Fence> fences, std::function<std::string(uint64_t address)> tensor_at);

  absl::Status Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) override;
  absl::Status Write(absl::Span<const MemoryRun> runs, Cancellation& cancel) override;
  bool waits_for_trainer() const override { return true; }  // for its fences
  int node() const override { return table_->node(); }

 private:
  struct Piece {
    const DeviceTable::Entry* entry = nullptr;
    MemoryRun run;
  };

  absl::Status AwaitFences(Cancellation& cancel);
  absl::Status Move(absl::Span<const MemoryRun> runs, bool into_device, Cancellation& cancel);
  absl::Status ReadTogether(std::vector<Piece>& pieces);
  absl::Status MoveDirect(absl::Span<const Piece> pieces, bool into_device);
  absl::Status MoveBounced(absl::Span<const Piece> pieces, bool into_device);
  absl::Status Copy(absl::Span<const Piece> pieces, absl::Span<const int64_t> host_offsets, bool into_device);

  DeviceHub* const hub_;
  const std::shared_ptr<MemoryPort> host_;
  const std::shared_ptr<const DeviceTable> table_;
  const std::vector<Fence> fences_;
  const std::function<std::string(uint64_t)> tensor_at_;

  std::mutex fences_mutex_;
  bool fences_reached_ = false;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_DEVICE_PORT_H_
