// Reads a flight record (flight_record.h) that another process wrote, and says what it proves.
//
// The descriptor is read with pread: holes, a writer that writes on, and bytes that mean harm cost an error at most. A
// record says something of the writer's memory only once the writer is dead.

#ifndef KEEPSTEP_PROTO_FLIGHT_READER_H_
#define KEEPSTEP_PROTO_FLIGHT_READER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/flight_record.h"

namespace keepstep::proto {

// One slot that is whole.
struct FlightNote {
  FlightSlot slot;
  std::string request;               // an encoded v1::SaveRequest
  std::vector<FlightEntry> entries;  // host memory: address and size …
  std::string host;                  // … and bytes, side by side in that order
};

struct FlightRecord {
  FlightState state = FlightState::kIdle;
  std::string why_not;  // of kRefused
  FlightWords words;
  std::vector<FlightNote> notes;  // the newer first; at most kFlightSlots
};

// INVALID_ARGUMENT: no memory file of a flight record's size, sealed against resizing: reading others may block.
absl::Status CheckFlightRecord(int fd);

// INVALID_ARGUMENT: of another version, or none. UNAVAILABLE: the kernel does not read it.
absl::StatusOr<FlightRecord> ReadFlightRecord(int fd);
absl::StatusOr<FlightWords> ReadFlightWords(int fd);

// The newest note of `generation` that holds for the memory as it is: in every group begun = done = expected. Null: none;
// `why` completes "rank 2: …".
const FlightNote* WholeNote(const FlightRecord& record, uint64_t generation, std::string* why);

// Whether `now` is what `record` had: no update has begun or ended since.
bool SameWords(const FlightWords& now, const FlightWords& before);

}  // namespace keepstep::proto

#endif  // KEEPSTEP_PROTO_FLIGHT_READER_H_
