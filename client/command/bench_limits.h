// What this machine allows, measured in a moment and without other programs: the figures that bench holds
// Keepstep's own against. Rough where tests/bench is careful: one size, one depth, medians of few.

#ifndef KEEPSTEP_CLIENT_COMMAND_BENCH_LIMITS_H_
#define KEEPSTEP_CLIENT_COMMAND_BENCH_LIMITS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace keepstep::client {

// Bytes a second of memcpy on all processors, and of memcpy plus XXH3-128 over each copied MiB.
double MeasureCopy(int64_t size_bytes, bool digest);

struct DiskRates {
  double write = 0, read = 0;  // bytes a second; the write with its flush
  bool direct = false;         // past the page cache; else `read` may be memory's
};
// One file beneath `directory`, written and read in pieces of 8 MiB by four threads, then removed.
absl::StatusOr<DiskRates> MeasureDisk(const std::string& directory, int64_t size_bytes);

// Seconds of one call that the daemon answers without work (its health), over the socket at `grpc_path`: the
// median.
absl::StatusOr<double> MeasureRoundTrip(const std::string& grpc_path);

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_BENCH_LIMITS_H_
