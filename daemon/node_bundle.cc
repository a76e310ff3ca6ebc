// Node.Bundle.

#include <algorithm>
#include <string>

#include "daemon/bundle.h"
#include "daemon/node_service.h"
#include "daemon/reactors.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kChunkBytes = 256 << 10;

// Text that is not UTF-8 (a path may hold anything) does not travel in a message.
std::string Printable(std::string text) {
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80 || (byte < 0x20 && c != '\n' && c != '\t')) c = '?';
  }
  return text;
}

}  // namespace

grpc::ServerWriteReactor<v1::BundleChunk>* NodeService::Bundle(grpc::CallbackServerContext* context,
                                                               const v1::BundleRequest* request) {
  auto stream = BlockingStream<v1::BundleChunk>::Make(context);
  stream->Start(state_.streams, [this, context](BlockingStream<v1::BundleChunk>& to) -> absl::Status {
    auto session = OptionalSession(state_, *context);
    if (!session.ok()) return session.status();
    v1::StatusResponse status;
    if (absl::Status filled = FillStatus("", session->get(), status); !filled.ok()) return filled;
    return MakeBundle(state_, *session, status, [&to](const std::string& section) {
      const std::string text = Printable(section);
      for (size_t at = 0; at < text.size(); at += kChunkBytes) {
        v1::BundleChunk chunk;
        chunk.set_text(text.substr(at, kChunkBytes));
        if (absl::Status wrote = to.Write(chunk); !wrote.ok()) return wrote;
      }
      return absl::OkStatus();
    });
  });
  return stream.get();
}

}  // namespace keepstep::daemon
