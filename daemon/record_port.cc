#include "daemon/record_port.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

namespace keepstep::daemon {

// Buffers may lie over each other: each byte is taken from the first that has it.
RecordPort::RecordPort(std::shared_ptr<const proto::FlightNote> note) : note_(std::move(note)) {
  std::vector<std::tuple<uint64_t, uint64_t, const char*>> entries;
  const char* bytes = note_->host.data();
  for (const proto::FlightEntry& entry : note_->entries) {
    if (entry.address <= UINT64_MAX - entry.size_bytes)
      entries.emplace_back(entry.address, entry.address + entry.size_bytes, bytes);
    bytes += entry.size_bytes;
  }
  std::sort(entries.begin(), entries.end());
  uint64_t covered = 0;
  for (const auto& [begin, end, at] : entries) {
    const uint64_t from = std::max(begin, covered);
    if (from >= end) continue;
    segments_[from] = {end, at + (from - begin)};
    covered = end;
  }
}

absl::Status RecordPort::Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) {
  for (MemoryRun run : runs) {
    if (cancel.cancelled()) return cancel.status();
    while (run.size_bytes > 0) {
      auto found = segments_.upper_bound(run.address);
      if (found == segments_.begin() || (--found)->second.end <= run.address)
        return absl::OutOfRangeError("the flight record does not hold all of the registered host memory");
      const auto left_bytes = static_cast<int64_t>(found->second.end - run.address);
      const int64_t take = std::min(run.size_bytes, left_bytes);
      std::memcpy(run.local, found->second.bytes + (run.address - found->first), take);
      run = {run.address + take, run.local + take, run.size_bytes - take};
    }
  }
  return absl::OkStatus();
}

absl::Status RecordPort::Write(absl::Span<const MemoryRun>, Cancellation&) {
  return absl::FailedPreconditionError("nothing is loaded into a dead process");
}

}  // namespace keepstep::daemon
