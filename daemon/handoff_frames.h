// What a client may say on the handoff socket, told apart by size, magic, version and kind before a field is
// read.
//
// Pure: a frame is its bytes and the number of descriptors that came with it. Whatever these functions refuse
// closes the connection it came on; nothing else happens.

#ifndef KEEPSTEP_DAEMON_HANDOFF_FRAMES_H_
#define KEEPSTEP_DAEMON_HANDOFF_FRAMES_H_

#include <cstddef>
#include <optional>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/handoff.h"

namespace keepstep::daemon {

// The first frame. INVALID_ARGUMENT (BAD_FRAME): no Hello, a transfer that is none, a directory's name
// without an end, other than one descriptor with a directory and none without. FAILED_PRECONDITION: another
// version's Hello.
absl::StatusOr<proto::Hello> ParseHello(absl::Span<const std::byte> frame, size_t descriptors);

// Whether a first frame is to be taken for a Fetch.
bool IsFetch(absl::Span<const std::byte> frame);
// INVALID_ARGUMENT (BAD_FRAME): another size or version, or descriptors.
absl::StatusOr<proto::Fetch> ParseFetch(absl::Span<const std::byte> frame, size_t descriptors);

// A frame after the first; none but Descriptors carries descriptors.
struct AskedSave {
  absl::Span<const std::byte> request;  // within the frame; at most proto::kMaxAskBytes
};
using ClientFrame =
    std::variant<proto::Goodbye, proto::Notify, proto::CopyDone, proto::Descriptors, AskedSave>;
std::optional<ClientFrame> ParseClientFrame(absl::Span<const std::byte> frame, size_t descriptors);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_HANDOFF_FRAMES_H_
