// Whether a registration holds the same tensors at the same places as one of a process before it: pure.

#ifndef KEEPSTEP_DAEMON_SAME_PLACE_H_
#define KEEPSTEP_DAEMON_SAME_PLACE_H_

#include <optional>
#include <string>

#include "daemon/device/trainer_pieces.h"
#include "daemon/registration.h"

namespace keepstep::daemon {

// Bytes of owned memory.
struct PlaceInPiece {
  PieceName piece;
  uint64_t offset_bytes = 0;
  friend bool operator==(const PlaceInPiece&, const PlaceInPiece&) = default;
};

// Where the buffer lies, all of it; nothing: it is host memory, empty, or lies in memory that the daemon does not own.
std::optional<PlaceInPiece> PlaceOf(const Registration& registration, uint32_t buffer);

// Empty: names, dtypes, shapes, groups and boxes are the same; what lies in GPU memory lies in the same piece at the same
// offset, the rest in host memory as before. Else what differs, as the end of a sentence that begins with a rank.
std::string WhyNotInPlace(const Registration& was, const Registration& is);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_SAME_PLACE_H_
