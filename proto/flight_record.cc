#include "proto/flight_record.h"

#include <xxhash.h>

namespace keepstep::proto {

uint64_t FlightChecksum(absl::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace keepstep::proto
