#include "daemon/handoff_frames.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "daemon/error.h"

namespace keepstep::daemon {
namespace {

absl::Status Invalid(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_FRAME", message, "handoff");
}

// The frame as `Frame`, when it has its size and kind.
template <typename Frame>
std::optional<ClientFrame> As(absl::Span<const std::byte> bytes, const proto::FrameHeader& header) {
  Frame frame;
  if (bytes.size() != sizeof(frame) || header.kind != frame.header.kind) return std::nullopt;
  std::memcpy(static_cast<void*>(&frame), bytes.data(), sizeof(frame));
  return frame;
}

}  // namespace

absl::StatusOr<proto::Hello> ParseHello(absl::Span<const std::byte> frame, size_t descriptors) {
  proto::Hello hello;
  if (frame.size() != sizeof(hello)) return Invalid("The first frame is not a Hello of this version.");
  std::memcpy(static_cast<void*>(&hello), frame.data(), sizeof(hello));
  if (hello.header.magic != proto::kHandoffMagic || hello.header.kind != proto::FrameKind::kHello) {
    return Invalid("The first frame is not a Hello.");
  }
  if (hello.header.version != proto::kHandoffVersion) {
    return MakeError(
        absl::StatusCode::kFailedPrecondition, "UNSUPPORTED_VERSION",
        absl::StrCat("Handoff version ", hello.header.version, " is not spoken here, ",
                     proto::kHandoffVersion, " is. Install matching versions of client and daemon."),
        "handoff");
  }
  if (static_cast<uint8_t>(hello.want) > static_cast<uint8_t>(proto::Transfer::kWindow))
    return Invalid("Unknown transfer.");
  if (hello.has_umask > 1 || hello.umask > 0777) return Invalid("A umask has nine bits.");
  if (std::memchr(hello.directory, 0, sizeof(hello.directory)) == nullptr)
    return Invalid("The directory's name does not end.");
  if (hello.has_directory > 1 || hello.has_flight_record > 1 ||
      descriptors != size_t{hello.has_directory} + hello.has_flight_record) {
    return Invalid("A Hello carries the descriptors that it says: the directory's, the flight record's.");
  }
  return hello;
}

bool IsFetch(absl::Span<const std::byte> frame) {
  proto::FrameHeader header;
  if (frame.size() < sizeof(header)) return false;
  std::memcpy(static_cast<void*>(&header), frame.data(), sizeof(header));
  return header.magic == proto::kHandoffMagic && header.kind == proto::FrameKind::kFetch;
}

absl::StatusOr<proto::Fetch> ParseFetch(absl::Span<const std::byte> frame, size_t descriptors) {
  proto::Fetch fetch;
  if (frame.size() != sizeof(fetch) || descriptors != 0) return Invalid("A Fetch has its own size and no descriptors.");
  std::memcpy(static_cast<void*>(&fetch), frame.data(), sizeof(fetch));
  if (fetch.header.version != proto::kHandoffVersion) return Invalid("A Fetch of another version.");
  return fetch;
}

std::optional<ClientFrame> ParseClientFrame(absl::Span<const std::byte> frame, size_t descriptors) {
  proto::FrameHeader header;
  if (frame.size() < sizeof(header)) return std::nullopt;
  std::memcpy(static_cast<void*>(&header), frame.data(), sizeof(header));
  if (header.magic != proto::kHandoffMagic || header.version != proto::kHandoffVersion) return std::nullopt;
  static_assert(sizeof(proto::AskSave) == sizeof(header));
  if ((descriptors != 0) != (header.kind == proto::FrameKind::kDescriptors)) return std::nullopt;
  switch (header.kind) {
    case proto::FrameKind::kGoodbye:
      return As<proto::Goodbye>(frame, header);
    case proto::FrameKind::kNotify:
      return As<proto::Notify>(frame, header);
    case proto::FrameKind::kCopyDone:
      return As<proto::CopyDone>(frame, header);
    case proto::FrameKind::kDescriptors:
      return As<proto::Descriptors>(frame, header);
    case proto::FrameKind::kAskSave:
      if (frame.size() - sizeof(proto::AskSave) > proto::kMaxAskBytes) return std::nullopt;
      return AskedSave{frame.subspan(sizeof(proto::AskSave))};
    default:
      return std::nullopt;
  }
}

}  // namespace keepstep::daemon
