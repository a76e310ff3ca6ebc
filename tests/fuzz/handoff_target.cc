// Frames of the handoff socket, both ways: what a client sends to the daemon, and what a daemon sends to a
// client.
//
// A frame that is taken has the size and kind that it claims; a copy that is taken stays inside the
// registered buffers and the window.

#include <cstring>
#include <variant>
#include <vector>

#include "client/buffer_table.h"
#include "client/copy_thread.h"
#include "client/handoff_client.h"
#include "daemon/handoff_frames.h"
#include "reshard/check.h"
#include "tests/fuzz/bytes.h"

namespace keepstep::fuzz {
namespace {

constexpr uint64_t kWindowBytes = 1 << 20;

void ToDaemon(absl::Span<const std::byte> frame, size_t descriptors) {
  if (const auto hello = daemon::ParseHello(frame, descriptors); hello.ok()) {
    KEEPSTEP_CHECK(frame.size() == sizeof(proto::Hello), "a Hello of another size");
    KEEPSTEP_CHECK(strnlen(hello->directory, sizeof(hello->directory)) < sizeof(hello->directory),
                   "a directory without an end");
    KEEPSTEP_CHECK(descriptors == size_t{hello->has_directory} + hello->has_flight_record,
                   "a descriptor that nobody takes");
    KEEPSTEP_CHECK(hello->want <= proto::Transfer::kWindow, "a transfer that is none");
    KEEPSTEP_CHECK(hello->umask <= 0777, "a umask of more than nine bits");
  }
  if (const auto fetch = daemon::ParseFetch(frame, descriptors); fetch.ok()) {
    KEEPSTEP_CHECK(frame.size() == sizeof(proto::Fetch) && descriptors == 0, "a Fetch of another size");
  }
  if (const auto said = daemon::ParseClientFrame(frame, descriptors)) {
    const bool carries = std::holds_alternative<proto::Descriptors>(*said);
    KEEPSTEP_CHECK((descriptors != 0) == carries, "a frame with descriptors that has none to have");
    if (const auto* ask = std::get_if<daemon::AskedSave>(&*said)) {
      KEEPSTEP_CHECK(ask->request.size() <= proto::kMaxAskBytes, "too long a request");
      KEEPSTEP_CHECK(ask->request.size() + sizeof(proto::AskSave) == frame.size(), "bytes that nobody takes");
      return;
    }
    proto::FrameHeader header;
    std::memcpy(static_cast<void*>(&header), frame.data(), sizeof(header));
    const size_t size = std::holds_alternative<proto::CopyDone>(*said)  ? sizeof(proto::CopyDone)
                        : std::holds_alternative<proto::Goodbye>(*said) ? sizeof(proto::Goodbye)
                        : carries                                       ? sizeof(proto::Descriptors)
                                                                        : sizeof(proto::Notify);
    KEEPSTEP_CHECK(frame.size() == size, "a frame of another size");
    KEEPSTEP_CHECK(header.magic == proto::kHandoffMagic, "a frame without the magic");
  }
}

bool InRange(__int128 begin, __int128 size, __int128 range_begin, __int128 range_size) {
  return begin >= range_begin && begin + size <= range_begin + range_size;
}

// Buffers are at fixed addresses: the check must not touch memory.
void ToClient(absl::Span<const std::byte> frame, bool loading) {
  const absl::StatusOr<client::CopyRequest> request = client::ParseCopy(frame);
  if (!request.ok()) return;
  const std::vector<client::MemoryRange> ranges = {
      {0x10000, 0x1000}, {0x10800, 0x1000}, {0x7fff0000, 64}, {UINT64_MAX - 4095, 4095}};
  client::BufferTable buffers;
  buffers.Replace(ranges);
  std::optional<client::BufferTable::LoadScope> scope;
  if (loading) scope.emplace(&buffers);
  if (client::CheckCopy(*request, buffers, kWindowBytes) != 0) return;
  KEEPSTEP_CHECK(loading || request->head.into_client == 0, "memory would be written without a load");
  for (const proto::CopyEntry& entry : request->entries) {
    KEEPSTEP_CHECK(InRange(entry.window_offset_bytes, entry.size_bytes, 0, kWindowBytes),
                   "outside the window");
    bool inside = false;
    for (const auto& range : ranges) {
      inside = inside || InRange(entry.address, entry.size_bytes, range.address, range.size_bytes);
    }
    KEEPSTEP_CHECK(inside || entry.size_bytes == 0, "outside the registered buffers");
  }
}

}  // namespace
}  // namespace keepstep::fuzz

// One byte of choices: how many descriptors come along, and whether a load is under way. Then the frame.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  keepstep::fuzz::Bytes bytes(data, size);
  const auto choices = bytes.Take<uint8_t>();
  const absl::string_view rest = bytes.rest();
  const auto frame = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(rest.data()), rest.size());
  keepstep::fuzz::ToDaemon(frame, choices & 3);
  keepstep::fuzz::ToClient(frame, (choices & 4) != 0);
  return 0;
}
