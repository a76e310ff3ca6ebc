#include "storage/digest.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace keepstep::storage {
namespace {

std::vector<std::byte> Bytes(size_t size) {
  std::vector<std::byte> bytes(size);
  uint32_t state = 12345;
  for (std::byte& b : bytes) b = static_cast<std::byte>((state = state * 1664525u + 1013904223u) >> 24);
  return bytes;
}

// The digests of an extent are defined by its bytes alone, not by how they arrived.
TEST(ExtentDigester, SpansDoNotMatter) {
  for (size_t size : {size_t{0}, size_t{1}, size_t{4096}, size_t{kBlockBytes - 1}, size_t{kBlockBytes},
                      size_t{kBlockBytes + 1}, size_t{3 * kBlockBytes + 777}}) {
    const std::vector<std::byte> bytes = Bytes(size);
    const ExtentDigests whole = DigestExtent(bytes);
    ASSERT_EQ(whole.block_digests.size(), BlockCount(size) * kDigestBytes);
    for (size_t span : {size_t{4096}, size_t{100003}, size_t{kBlockBytes}, size_t{2 * kBlockBytes + 5}}) {
      ExtentDigester digester(size);
      for (size_t at = 0; at < size; at += span)
        digester.Update(absl::MakeConstSpan(bytes).subspan(at, span));
      const ExtentDigests pieces = digester.Finish();
      EXPECT_EQ(pieces.block_digests, whole.block_digests) << size << " in spans of " << span;
      EXPECT_EQ(pieces.digest, whole.digest);
    }
  }
}

TEST(BlockCount, HoldsForEverySizeThatARecordCanClaim) {
  EXPECT_EQ(BlockCount(0), 0);
  EXPECT_EQ(BlockCount(1), 1);
  EXPECT_EQ(BlockCount(kBlockBytes), 1);
  EXPECT_EQ(BlockCount(kBlockBytes + 1), 2);
  EXPECT_EQ(BlockCount(INT64_MAX), int64_t{1} << 43);
}

TEST(ExtentDigester, ResetStartsAnew) {
  const std::vector<std::byte> bytes = Bytes(10000);
  ExtentDigester digester(5000);
  digester.Update(absl::MakeConstSpan(bytes).first(1000));  // leaves a state behind
  digester.Reset(10000);
  digester.Update(absl::MakeConstSpan(bytes).first(3000));
  digester.Update(absl::MakeConstSpan(bytes).subspan(3000));
  EXPECT_EQ(digester.Finish().digest, DigestExtent(bytes).digest);
}

// The published test vector of an empty input, in canonical order: what another implementation would compute.
TEST(Digest, IsCanonicalXxh3) {
  const Digest128 digest = DigestOf(absl::string_view());
  const std::array<uint8_t, 16> expected = {0x99, 0xaa, 0x06, 0xd3, 0x01, 0x47, 0x98, 0xd8,
                                            0x60, 0x01, 0xc3, 0x24, 0x46, 0x8d, 0x49, 0x7f};
  EXPECT_EQ(digest.bytes, expected);
}

TEST(VerifyBlocks, NamesTheBadBlock) {
  std::vector<std::byte> bytes = Bytes(2 * kBlockBytes + 100);
  const ExtentDigests digests = DigestExtent(bytes);
  const auto size = static_cast<int64_t>(bytes.size());
  EXPECT_TRUE(VerifyBlocks(bytes, 0, size, digests.block_digests).ok());
  EXPECT_TRUE(
      VerifyBlocks(absl::MakeConstSpan(bytes).subspan(kBlockBytes), kBlockBytes, size, digests.block_digests)
          .ok());
  bytes[kBlockBytes + 3] ^= std::byte{1};
  const absl::Status bad = VerifyBlocks(bytes, 0, size, digests.block_digests);
  EXPECT_EQ(bad.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(std::string(bad.message()).find("1048576"), std::string::npos) << bad;
  EXPECT_TRUE(
      VerifyBlocks(absl::MakeConstSpan(bytes).first(kBlockBytes), 0, size, digests.block_digests).ok());
}

TEST(VerifyBlocks, RefusesPartsOfBlocks) {
  const std::vector<std::byte> bytes = Bytes(kBlockBytes + 100);
  const ExtentDigests digests = DigestExtent(bytes);
  const auto size = static_cast<int64_t>(bytes.size());
  const auto all = absl::MakeConstSpan(bytes);
  EXPECT_EQ(VerifyBlocks(all.first(100), 0, size, digests.block_digests).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(VerifyBlocks(all.subspan(1), 1, size, digests.block_digests).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(VerifyBlocks(all, 0, size, digests.block_digests.substr(1)).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(VerifyBlocks(all, kBlockBytes, size, digests.block_digests).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ExtentDigesterDeathTest, MissingBytesAreABrokenInvariant) {
  ExtentDigester digester(2);
  EXPECT_DEATH(digester.Finish(), "all of its bytes");
}

}  // namespace
}  // namespace keepstep::storage
