// The flight record: what a trainer leaves for the daemon that saves its memory when it has died (docs/gpu.md).
//
// A memfd of the client's, sealed against resizing. The client maps it and writes; the daemon has its descriptor and
// reads it with pread once the process is dead, so that no page of it can end the daemon.
//
//   page 0   FlightHead: whether the record counts, and why not
//   page 1   FlightWords: begun and done of each group. The client pins this page; streams of the GPU write it, in order
//            with the updates: begun behind the gate's wait, done behind the update
//   page 2…  two slots of kFlightSlotBytes, of which the client overwrites the older: FlightSlot, then the request, the
//            entries, the bytes of the entries in their order
//
// A slot is whole if its checksum says so, and is the process's state if it is of the registration that stands and, for
// each group with GPU memory, begun = done = expected. Pages that nobody wrote are holes, which cost nothing.

#ifndef KEEPSTEP_PROTO_FLIGHT_RECORD_H_
#define KEEPSTEP_PROTO_FLIGHT_RECORD_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "proto/session_page.h"

namespace keepstep::proto {

inline constexpr uint32_t kFlightMagic = 0x4c46534b;  // "KSFL"
inline constexpr uint32_t kFlightVersion = 1;
inline constexpr int kFlightSlots = 2;
inline constexpr int64_t kMaxFlightHostBytes = int64_t{64} << 20;  // of registered host memory of a rank
inline constexpr int64_t kFlightSlotBytes = int64_t{72} << 20;

enum class FlightState : uint32_t {
  kIdle = 0,       // nothing was noted
  kRecording = 1,  // the slots count
  kRefused = 2,    // they do not, whatever they hold; why_not says why
};

struct FlightHead {
  uint32_t magic = kFlightMagic;
  uint32_t version = kFlightVersion;
  std::atomic<FlightState> state{FlightState::kIdle};
  char why_not[252] = {};  // written before kRefused; NUL-terminated
};

struct FlightWords {
  uint32_t begun[kMaxGroups] = {};
  uint32_t done[kMaxGroups] = {};
};

// Host memory that the slot holds: bytes of the buffer that was registered at `address`.
struct FlightEntry {
  uint64_t address = 0;
  uint64_t size_bytes = 0;
};

struct FlightSlot {
  uint64_t checksum = 0;  // FlightChecksum of everything behind it, to the last byte of the last entry
  uint64_t sequence = 0;  // grows with each note; 0: never written
  int64_t step = 0;
  uint64_t generation = 0;   // of the registration
  uint64_t host_bytes = 0;   // of all entries together
  uint32_t request_bytes = 0;  // an encoded v1::SaveRequest, as ks_save(step) would send it, without number and fences
  uint32_t entry_count = 0;
  uint32_t expected[kMaxGroups] = {};  // updates of the group that were queued by then; 0 also: no such group
};

inline constexpr int64_t kFlightWordsOffset = kPageBytes;
constexpr int64_t FlightSlotOffset(int slot) { return 2 * kPageBytes + slot * kFlightSlotBytes; }
inline constexpr int64_t kFlightRecordBytes = FlightSlotOffset(kFlightSlots);

static_assert(sizeof(FlightHead) <= kPageBytes && sizeof(FlightWords) <= kPageBytes);

// XXH3 of 64 bits.
uint64_t FlightChecksum(absl::string_view bytes);

}  // namespace keepstep::proto

#endif  // KEEPSTEP_PROTO_FLIGHT_RECORD_H_
