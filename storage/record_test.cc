#include "storage/record.h"

#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "storage/attempt.h"
#include "storage/digest.h"
#include "storage/test_parts.h"

namespace keepstep::storage {
namespace {

TestCheckpoint Sample() { return MakeTestCheckpoint(7, {1, 2, 3}, 2); }

std::string SampleDecision() {
  v1::Decision decision = Sample().intent();
  decision.add_parts()->set_name("part-0.pb");
  return EncodeDecision(decision);
}

// Replaces bytes and puts the digest right again: what a forger or another version would write.
std::string Resealed(std::string bytes, size_t offset, absl::string_view with) {
  bytes.replace(offset, with.size(), std::string(with));
  bytes.resize(bytes.size() - kDigestBytes);
  return bytes + DigestOf(absl::string_view(bytes)).ToBytes();
}

TEST(Record, GoesBothWays) {
  const TestCheckpoint sample = Sample();
  absl::StatusOr<v1::Part> part = DecodePart(EncodePart(sample.parts[0]));
  ASSERT_TRUE(part.ok()) << part.status();
  EXPECT_EQ(part->SerializeAsString(), sample.parts[0].SerializeAsString());
  absl::StatusOr<v1::Decision> decision = DecodeDecision(SampleDecision());
  ASSERT_TRUE(decision.ok()) << decision.status();
  EXPECT_EQ(decision->metrics().at("loss"), 0.5);
  v1::Claim claim;
  claim.set_epoch(4);
  EXPECT_EQ(DecodeClaim(EncodeClaim(claim))->epoch(), 4);
  v1::Marker marker;
  marker.set_text("why");
  EXPECT_EQ(DecodeMarker(EncodeMarker(marker))->text(), "why");
}

TEST(Record, EveryFlippedBitIsDataLoss) {
  for (const std::string& bytes : {EncodePart(Sample().parts[0]), SampleDecision()}) {
    for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      std::string flipped = bytes;
      flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
      ASSERT_EQ(DecodePart(flipped).status().code(), absl::StatusCode::kDataLoss) << bit;
      ASSERT_EQ(DecodeDecision(flipped).status().code(), absl::StatusCode::kDataLoss) << bit;
    }
  }
}

TEST(Record, EveryOtherLengthIsDataLoss) {
  const std::string part = EncodePart(Sample().parts[0]);
  for (size_t size = 0; size < part.size(); ++size) {
    ASSERT_EQ(DecodePart(absl::string_view(part).substr(0, size)).status().code(),
              absl::StatusCode::kDataLoss)
        << size;
  }
  EXPECT_EQ(DecodePart(part + '\0').status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(DecodePart(part + part).status().code(), absl::StatusCode::kDataLoss);
}

// Undamaged, but not ours to read: the version is named, and nothing is called damage.
TEST(Record, LaterVersionsAreNamed) {
  const std::string later = Resealed(SampleDecision(), 8, absl::string_view("\x07\0\0\0", 4));
  const absl::Status status = DecodeDecision(later).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(status.message()).find("version 7"), std::string::npos) << status;
  v1::Decision decision = Sample().intent();
  decision.set_format_version(9);
  EXPECT_EQ(DecodeDecision(EncodeRecord(RecordKind::kDecision, decision.SerializeAsString())).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(Record, SealedNonsenseIsDataLoss) {
  EXPECT_EQ(DecodeDecision(Resealed(SampleDecision(), 8, absl::string_view("\0\0\0\0", 4))).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(DecodeDecision(Resealed(SampleDecision(), 12, absl::string_view("\xff", 1))).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(DecodePart(SampleDecision()).status().code(), absl::StatusCode::kDataLoss) << "another kind";
  EXPECT_EQ(DecodeDecision(EncodeRecord(RecordKind::kDecision, "\xff\xff\xff")).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(DecodeDecision(EncodeRecord(RecordKind::kDecision, "")).status().code(),
            absl::StatusCode::kDataLoss)
      << "decides nothing";
}

// A later minor version may add fields; rewriting a record must not lose them.
TEST(Record, UnknownFieldsAreKept) {
  const std::string payload = Sample().intent().SerializeAsString() + std::string("\xfa\x3f\x03new", 6);
  absl::StatusOr<v1::Decision> decision = DecodeDecision(EncodeRecord(RecordKind::kDecision, payload));
  ASSERT_TRUE(decision.ok()) << decision.status();
  EXPECT_NE(EncodeDecision(*decision).find("new"), std::string::npos);
}

// Readers index by a part's numbers.
TEST(Record, PartsThatContradictThemselvesAreDataLoss) {
  using Spoil = void (*)(v1::Part&);
  const Spoil spoils[] = {
      [](v1::Part& p) { p.set_index(2); },
      [](v1::Part& p) { p.set_count(0); },
      [](v1::Part& p) { p.set_attempt("../x"); },
      [](v1::Part& p) { p.mutable_blobs(0)->set_name("../x"); },
      [](v1::Part& p) { p.mutable_blobs(0)->set_name("a/b"); },
      [](v1::Part& p) { p.mutable_blobs(0)->set_size_bytes(10); },
      [](v1::Part& p) { p.mutable_blobs(0)->set_header_digest("short"); },
      [](v1::Part& p) { *p.add_blobs() = p.blobs(0); },
      [](v1::Part& p) { p.mutable_extents(0)->set_blob(1); },
      [](v1::Part& p) { p.mutable_extents(0)->set_tensor(2); },
      [](v1::Part& p) { p.mutable_extents(0)->set_offset_bytes(0); },
      [](v1::Part& p) { p.mutable_extents(0)->set_offset_bytes(INT64_MAX); },
      [](v1::Part& p) { p.mutable_extents(0)->set_size_bytes(31); },
      [](v1::Part& p) { p.mutable_extents(0)->mutable_box()->set_origin(0, 3); },
      [](v1::Part& p) { p.mutable_extents(0)->mutable_box()->set_shape(0, -1); },
      [](v1::Part& p) { p.mutable_extents(0)->set_digest(std::string(16, 'x')); },
      [](v1::Part& p) { p.mutable_extents(0)->clear_block_digests(); },
      [](v1::Part& p) { p.mutable_tensors(1)->mutable_meta()->set_fqn("w"); },
      [](v1::Part& p) { p.mutable_tensors(1)->set_aliases(0, "w"); },
      [](v1::Part& p) { p.mutable_tensors(0)->mutable_meta()->set_dtype("F33"); },
      [](v1::Part& p) { p.mutable_tensors(0)->mutable_meta()->set_shape(0, INT64_MAX); },
      [](v1::Part& p) { p.add_extras()->add_items()->set_blob(9); },
  };
  for (size_t i = 0; i < std::size(spoils); ++i) {
    v1::Part part = Sample().parts[0];
    spoils[i](part);
    EXPECT_EQ(DecodePart(EncodePart(part)).status().code(), absl::StatusCode::kDataLoss) << "spoil " << i;
  }
}

std::string HexDump(absl::string_view bytes) {
  std::string out;
  for (size_t at = 0; at < bytes.size(); at += 16) {
    for (char c : bytes.substr(at, 16))
      absl::StrAppend(&out, absl::BytesToHexString(absl::string_view(&c, 1)), " ");
    out.back() = '\n';
  }
  return out;
}

// The document's example is what the code writes.
TEST(Record, WorkedExampleStaysTrue) {
  v1::EpochStep step;
  step.set_step(12000);
  step.set_attempt(AttemptName({3, 7, 0xab}));
  std::ifstream file("docs/formats.md");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_NE(text.str().find(HexDump(EncodeEpochStep(step))), std::string::npos)
      << "docs/formats.md should contain\n"
      << HexDump(EncodeEpochStep(step));
}

}  // namespace
}  // namespace keepstep::storage
