// Bytes that claim to be a record: decoded as each kind, as they are and with their digest mended.
//
// What decodes is written to bytes that decode, and that are written again byte for byte: nothing is lost on
// the way.

#include <string>

#include "absl/strings/str_cat.h"
#include "reshard/check.h"
#include "storage/digest.h"
#include "storage/record.h"
#include "tests/fuzz/bytes.h"

namespace keepstep::fuzz {
namespace {

template <typename Message>
void CheckKind(absl::string_view bytes, absl::StatusOr<Message> (*decode)(absl::string_view),
               std::string (*encode)(const Message&)) {
  const absl::StatusOr<Message> message = decode(bytes);
  if (!message.ok()) return;
  const std::string written = encode(*message);
  const absl::StatusOr<Message> again = decode(written);
  KEEPSTEP_CHECK(again.ok(), "what was decoded and written cannot be decoded");
  KEEPSTEP_CHECK(encode(*again) == written, "a record changed by being read and written");
}

void CheckRecord(absl::string_view bytes) {
  CheckKind(bytes, &storage::DecodePart, &storage::EncodePart);
  CheckKind(bytes, &storage::DecodeDecision, &storage::EncodeDecision);
  CheckKind(bytes, &storage::DecodeClaim, &storage::EncodeClaim);
  CheckKind(bytes, &storage::DecodeEpochStep, &storage::EncodeEpochStep);
  CheckKind(bytes, &storage::DecodeMarker, &storage::EncodeMarker);
}

}  // namespace

void TestRecord(absl::string_view bytes) {
  CheckRecord(bytes);
  // As if its writer had meant it: else no mutation would get past the digest.
  CheckRecord(absl::StrCat(bytes, storage::DigestOf(bytes).ToBytes()));
  Bytes parts(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  const auto kind = static_cast<storage::RecordKind>(parts.Take<uint8_t>() % 6);
  CheckRecord(storage::EncodeRecord(kind, parts.rest()));
}

}  // namespace keepstep::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  keepstep::fuzz::TestRecord(absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
