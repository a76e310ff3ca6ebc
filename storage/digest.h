// Integrity of bytes at rest: XXH3-128 of every block, and over the block digests.
//
// An extent is cut into blocks of kBlockBytes from its own start; the last may be shorter, and an empty
// extent has none. Its digest is XXH3-128 over its block digests, so one pass over the bytes gives both.
// Digests are stored in canonical (big-endian) form. They show damage, not forgery.

#ifndef KEEPSTEP_STORAGE_DIGEST_H_
#define KEEPSTEP_STORAGE_DIGEST_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace keepstep::storage {

inline constexpr int64_t kBlockBytes = int64_t{1} << 20;
inline constexpr size_t kDigestBytes = 16;

struct Digest128 {
  std::array<uint8_t, kDigestBytes> bytes{};

  std::string ToBytes() const {
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  friend bool operator==(const Digest128&, const Digest128&) = default;
};

Digest128 DigestOf(absl::Span<const std::byte> bytes);
Digest128 DigestOf(absl::string_view bytes);

// For every size that a record can claim, the largest int64 included.
inline int64_t BlockCount(int64_t extent_bytes) {
  return extent_bytes / kBlockBytes + (extent_bytes % kBlockBytes != 0 ? 1 : 0);
}

struct ExtentDigests {
  Digest128 digest;
  std::string block_digests;  // kDigestBytes per block
};

// Digests of one extent whose bytes arrive in order, in spans of any size. A block that lies in one span
// costs one call of the hash; only one that straddles spans needs (and keeps) a hash state. Not thread-safe;
// movable.
class ExtentDigester {
 public:
  explicit ExtentDigester(int64_t extent_bytes);
  ~ExtentDigester();
  ExtentDigester(ExtentDigester&&) noexcept;
  ExtentDigester& operator=(ExtentDigester&&) noexcept;

  // REQUIRES: not past the end of the extent.
  void Update(absl::Span<const std::byte> bytes);

  // Of the whole extent, once. REQUIRES: every byte was given.
  ExtentDigests Finish();

  // Starts another extent and keeps the hash state's memory.
  void Reset(int64_t extent_bytes);

 private:
  struct State;

  int64_t BlockRemaining() const;
  void AppendBlock(const Digest128& digest);

  // 0 <= done_bytes_ <= extent_bytes_; straddled_ iff the current block has bytes in state_.
  int64_t extent_bytes_;
  int64_t done_bytes_ = 0;
  bool straddled_ = false;
  std::unique_ptr<State> state_;
  std::string block_digests_;
};

// Of an extent that lies in one piece.
ExtentDigests DigestExtent(absl::Span<const std::byte> bytes);

// The bytes of an extent from `offset_bytes`, a multiple of kBlockBytes, to a multiple of it or the extent's
// end, against its block digests. DATA_LOSS naming the first bad block by its offset in the extent;
// INVALID_ARGUMENT for a range that is not whole blocks, or block digests that are not one per block.
absl::Status VerifyBlocks(absl::Span<const std::byte> bytes, int64_t offset_bytes, int64_t extent_bytes,
                          absl::string_view block_digests);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_DIGEST_H_
