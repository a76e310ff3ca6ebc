// Bytes that wait to be saved in an unlinked file, behind the interface of a trainer's memory: addresses are
// offsets from kBase.

#ifndef KEEPSTEP_DAEMON_SPOOL_H_
#define KEEPSTEP_DAEMON_SPOOL_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/memory_port.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

// Thread-safe.
class Spool : public MemoryPort {
 public:
  static constexpr uint64_t kBase = 1 << 20;  // no address is 0

  // Reserves `size_bytes` in `directory`. RESOURCE_EXHAUSTED (DISK_FULL) when it has no room, or too little
  // would be left: the catalog and the journal lie on the same disk.
  static absl::StatusOr<std::shared_ptr<Spool>> Make(const std::string& directory, int64_t size_bytes);

  absl::Status Put(int64_t offset_bytes, absl::string_view bytes);
  absl::Status Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) override;
  absl::Status Write(absl::Span<const MemoryRun> runs, Cancellation& cancel) override;
  bool waits_for_trainer() const override { return false; }

 private:
  explicit Spool(storage::UniqueFd fd) : fd_(std::move(fd)) {}

  storage::UniqueFd fd_;
};

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_SPOOL_H_
