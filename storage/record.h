// The frame of every record on storage: parts, decisions, claims, epoch steps, markers.
//
//   offset  size  field (little-endian)
//        0     6  magic "KSREC\0"
//        6     2  kind
//        8     4  version of the payload's format, from 1
//       12     8  length of the payload in bytes
//       20     n  payload: one protobuf message of proto/storage.proto
//   20 + n    16  XXH3-128 of all bytes before it, canonical (big-endian)
//
// The frame itself never changes; only the version does. docs/formats.md has a worked example.
// Errors of decoding: DATA_LOSS for bytes that are short, long, of another kind or damaged;
// FAILED_PRECONDITION, naming the version, for an undamaged record of a later format.

#ifndef KEEPSTEP_STORAGE_RECORD_H_
#define KEEPSTEP_STORAGE_RECORD_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/storage.pb.h"

namespace keepstep::storage {

inline constexpr uint32_t kRecordVersion = 1;
inline constexpr size_t kRecordHeaderBytes = 20;
inline constexpr size_t kRecordOverheadBytes = kRecordHeaderBytes + 16;

// The numbers go to disk.
enum class RecordKind : uint16_t { kPart = 1, kDecision = 2, kClaim = 3, kEpochStep = 4, kMarker = 5 };

std::string EncodeRecord(RecordKind kind, absl::string_view payload);

// The payload, as a view into `bytes`.
absl::StatusOr<absl::string_view> DecodeRecord(RecordKind kind, absl::string_view bytes);

// Typed records. Encoding sets `format_version`, is deterministic for one version of the software, and keeps
// the unknown fields of a message that was decoded. A decoded part has also passed ValidatePart (part.h).
std::string EncodePart(const v1::Part& part);
std::string EncodeDecision(const v1::Decision& decision);
std::string EncodeClaim(const v1::Claim& claim);
std::string EncodeEpochStep(const v1::EpochStep& step);
std::string EncodeMarker(const v1::Marker& marker);

absl::StatusOr<v1::Part> DecodePart(absl::string_view bytes);
absl::StatusOr<v1::Decision> DecodeDecision(absl::string_view bytes);
absl::StatusOr<v1::Claim> DecodeClaim(absl::string_view bytes);
absl::StatusOr<v1::EpochStep> DecodeEpochStep(absl::string_view bytes);
absl::StatusOr<v1::Marker> DecodeMarker(absl::string_view bytes);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_RECORD_H_
