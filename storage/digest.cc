// A block that lies in one span is hashed in one call; XXH3's streaming state (576 bytes to reset) is touched
// only for a block that straddles spans, so extents of a few KiB stay cheap.

#include "storage/digest.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "reshard/check.h"
#include "xxhash.h"

namespace keepstep::storage {
namespace {

Digest128 Canonical(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  Digest128 digest;
  static_assert(sizeof canonical.digest == kDigestBytes);
  std::memcpy(digest.bytes.data(), canonical.digest, kDigestBytes);
  return digest;
}

}  // namespace

struct ExtentDigester::State {
  State() : xxh(XXH3_createState()) { KEEPSTEP_CHECK(xxh != nullptr, "out of memory"); }
  ~State() { XXH3_freeState(xxh); }

  XXH3_state_t* const xxh;
};

Digest128 DigestOf(absl::Span<const std::byte> bytes) {
  return Canonical(XXH3_128bits(bytes.data(), bytes.size()));
}

Digest128 DigestOf(absl::string_view bytes) { return Canonical(XXH3_128bits(bytes.data(), bytes.size())); }

ExtentDigester::ExtentDigester(int64_t extent_bytes) : extent_bytes_(extent_bytes) {
  block_digests_.reserve(static_cast<size_t>(BlockCount(extent_bytes)) * kDigestBytes);
}
ExtentDigester::~ExtentDigester() = default;
ExtentDigester::ExtentDigester(ExtentDigester&&) noexcept = default;
ExtentDigester& ExtentDigester::operator=(ExtentDigester&&) noexcept = default;

void ExtentDigester::Reset(int64_t extent_bytes) {
  extent_bytes_ = extent_bytes;
  done_bytes_ = 0;
  straddled_ = false;
  block_digests_.clear();
  block_digests_.reserve(static_cast<size_t>(BlockCount(extent_bytes)) * kDigestBytes);
}

int64_t ExtentDigester::BlockRemaining() const {
  return std::min(kBlockBytes - done_bytes_ % kBlockBytes, extent_bytes_ - done_bytes_);
}

void ExtentDigester::AppendBlock(const Digest128& digest) {
  block_digests_.append(reinterpret_cast<const char*>(digest.bytes.data()), kDigestBytes);
}

void ExtentDigester::Update(absl::Span<const std::byte> bytes) {
  KEEPSTEP_CHECK(static_cast<int64_t>(bytes.size()) <= extent_bytes_ - done_bytes_,
                 "more bytes than the extent has");
  while (!bytes.empty()) {
    const int64_t remaining = BlockRemaining();
    const auto take = bytes.first(static_cast<size_t>(std::min<int64_t>(remaining, bytes.size())));
    const bool ends_block = static_cast<int64_t>(take.size()) == remaining;
    if (!straddled_ && ends_block) {
      AppendBlock(DigestOf(take));
    } else {
      if (!straddled_) {
        if (state_ == nullptr) state_ = std::make_unique<State>();
        XXH3_128bits_reset(state_->xxh);
      }
      XXH3_128bits_update(state_->xxh, take.data(), take.size());
      if (ends_block) AppendBlock(Canonical(XXH3_128bits_digest(state_->xxh)));
      straddled_ = !ends_block;
    }
    done_bytes_ += static_cast<int64_t>(take.size());
    bytes.remove_prefix(take.size());
  }
}

ExtentDigests ExtentDigester::Finish() {
  KEEPSTEP_CHECK(done_bytes_ == extent_bytes_, "an extent's digest needs all of its bytes");
  ExtentDigests result;
  result.digest = DigestOf(absl::string_view(block_digests_));
  result.block_digests = std::move(block_digests_);
  block_digests_.clear();
  return result;
}

ExtentDigests DigestExtent(absl::Span<const std::byte> bytes) {
  ExtentDigester digester(static_cast<int64_t>(bytes.size()));
  digester.Update(bytes);
  return digester.Finish();
}

absl::Status VerifyBlocks(absl::Span<const std::byte> bytes, int64_t offset_bytes, int64_t extent_bytes,
                          absl::string_view block_digests) {
  const auto size_bytes = static_cast<int64_t>(bytes.size());
  if (extent_bytes < 0 ||
      block_digests.size() != static_cast<uint64_t>(BlockCount(extent_bytes)) * kDigestBytes) {
    return absl::InvalidArgumentError(absl::StrCat("an extent of ", extent_bytes, " bytes cannot have ",
                                                   block_digests.size(), " bytes of block digests"));
  }
  if (offset_bytes < 0 || offset_bytes % kBlockBytes != 0 || offset_bytes > extent_bytes ||
      size_bytes > extent_bytes - offset_bytes ||
      (size_bytes % kBlockBytes != 0 && offset_bytes + size_bytes != extent_bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "bytes ", offset_bytes, "+", size_bytes, " of an extent of ", extent_bytes, " are not whole blocks"));
  }
  for (int64_t done = 0; done < size_bytes; done += kBlockBytes) {
    const auto block = bytes.subspan(static_cast<size_t>(done), kBlockBytes);
    const auto index = static_cast<size_t>((offset_bytes + done) / kBlockBytes);
    const Digest128 digest = DigestOf(block);
    if (std::memcmp(digest.bytes.data(), block_digests.data() + index * kDigestBytes, kDigestBytes) != 0) {
      return absl::DataLossError(
          absl::StrCat("the block at byte ", offset_bytes + done, " of the extent differs from its digest"));
    }
  }
  return absl::OkStatus();
}

}  // namespace keepstep::storage
