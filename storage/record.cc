// One frame for every record. The digest is checked before the version is believed, so that damage is never
// taken for the future.

#include "storage/record.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "storage/digest.h"
#include "storage/part.h"

namespace keepstep::storage {
namespace {

constexpr char kMagic[6] = {'K', 'S', 'R', 'E', 'C', '\0'};

absl::string_view KindName(RecordKind kind) {
  switch (kind) {
    case RecordKind::kPart: return "part";
    case RecordKind::kDecision: return "decision";
    case RecordKind::kClaim: return "claim";
    case RecordKind::kEpochStep: return "epoch step";
    case RecordKind::kMarker: return "marker";
  }
  return "record";
}

void AppendLittle(uint64_t value, int bytes, std::string& out) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

uint64_t ReadLittle(absl::string_view bytes, size_t offset, int count) {
  uint64_t value = 0;
  for (int i = 0; i < count; ++i) value |= uint64_t{static_cast<uint8_t>(bytes[offset + i])} << (8 * i);
  return value;
}

absl::Status Damaged(RecordKind kind, absl::string_view why) {
  return absl::DataLossError(absl::StrCat("damaged ", KindName(kind), " record: ", why));
}

absl::Status TooNew(RecordKind kind, uint64_t version) {
  return absl::FailedPreconditionError(absl::StrCat("this ", KindName(kind), " record has format version ",
                                                    version, "; this software reads up to ", kRecordVersion,
                                                    ": upgrade it"));
}

template <typename Message>
std::string Encode(RecordKind kind, const Message& message) {
  if (message.format_version() != kRecordVersion) {
    Message current = message;
    current.set_format_version(kRecordVersion);
    return Encode(kind, current);
  }
  std::string payload;
  {
    google::protobuf::io::StringOutputStream stream(&payload);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return EncodeRecord(kind, payload);
}

template <typename Message>
absl::StatusOr<Message> Decode(RecordKind kind, absl::string_view bytes) {
  absl::StatusOr<absl::string_view> payload = DecodeRecord(kind, bytes);
  if (!payload.ok()) return payload.status();
  Message message;
  if (!message.ParseFromArray(payload->data(), static_cast<int>(payload->size()))) {
    return Damaged(kind, "its payload is not the message it should be");
  }
  if (message.format_version() > kRecordVersion) return TooNew(kind, message.format_version());
  return message;
}

}  // namespace

std::string EncodeRecord(RecordKind kind, absl::string_view payload) {
  std::string bytes;
  bytes.reserve(payload.size() + kRecordOverheadBytes);
  bytes.append(kMagic, sizeof kMagic);
  AppendLittle(static_cast<uint16_t>(kind), 2, bytes);
  AppendLittle(kRecordVersion, 4, bytes);
  AppendLittle(payload.size(), 8, bytes);
  bytes.append(payload.data(), payload.size());
  bytes += DigestOf(absl::string_view(bytes)).ToBytes();
  return bytes;
}

absl::StatusOr<absl::string_view> DecodeRecord(RecordKind kind, absl::string_view bytes) {
  if (bytes.size() < kRecordOverheadBytes)
    return Damaged(kind, absl::StrCat(bytes.size(), " bytes are too few"));
  if (std::memcmp(bytes.data(), kMagic, sizeof kMagic) != 0)
    return Damaged(kind, "it does not begin with KSREC");
  const absl::string_view framed = bytes.substr(0, bytes.size() - kDigestBytes);
  if (DigestOf(framed).ToBytes() != bytes.substr(framed.size()))
    return Damaged(kind, "it differs from its digest");
  if (ReadLittle(bytes, 6, 2) != static_cast<uint16_t>(kind))
    return Damaged(kind, "it is a record of another kind");
  const uint64_t payload_bytes = ReadLittle(bytes, 12, 8);
  if (payload_bytes != framed.size() - kRecordHeaderBytes || payload_bytes > INT32_MAX) {
    return Damaged(kind, absl::StrCat("its length says ", payload_bytes, " bytes of payload"));
  }
  const uint64_t version = ReadLittle(bytes, 8, 4);
  if (version > kRecordVersion) return TooNew(kind, version);
  if (version == 0) return Damaged(kind, "format version 0");
  return framed.substr(kRecordHeaderBytes);
}

std::string EncodePart(const v1::Part& part) { return Encode(RecordKind::kPart, part); }
std::string EncodeDecision(const v1::Decision& decision) { return Encode(RecordKind::kDecision, decision); }
std::string EncodeClaim(const v1::Claim& claim) { return Encode(RecordKind::kClaim, claim); }
std::string EncodeEpochStep(const v1::EpochStep& step) { return Encode(RecordKind::kEpochStep, step); }
std::string EncodeMarker(const v1::Marker& marker) { return Encode(RecordKind::kMarker, marker); }

absl::StatusOr<v1::Part> DecodePart(absl::string_view bytes) {
  absl::StatusOr<v1::Part> part = Decode<v1::Part>(RecordKind::kPart, bytes);
  if (!part.ok()) return part;
  absl::Status status = ValidatePart(*part);
  if (!status.ok()) return status;
  return part;
}

absl::StatusOr<v1::Decision> DecodeDecision(absl::string_view bytes) {
  absl::StatusOr<v1::Decision> decision = Decode<v1::Decision>(RecordKind::kDecision, bytes);
  if (decision.ok() && decision->kind() != v1::Decision::COMMIT && decision->kind() != v1::Decision::ABORT) {
    return Damaged(RecordKind::kDecision, "it decides nothing");
  }
  return decision;
}

absl::StatusOr<v1::Claim> DecodeClaim(absl::string_view bytes) {
  return Decode<v1::Claim>(RecordKind::kClaim, bytes);
}
absl::StatusOr<v1::EpochStep> DecodeEpochStep(absl::string_view bytes) {
  return Decode<v1::EpochStep>(RecordKind::kEpochStep, bytes);
}
absl::StatusOr<v1::Marker> DecodeMarker(absl::string_view bytes) {
  return Decode<v1::Marker>(RecordKind::kMarker, bytes);
}

}  // namespace keepstep::storage
