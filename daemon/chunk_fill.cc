#include "daemon/chunk_fill.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "storage/digest.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kMaxGapBytes = 64 << 10;
constexpr int64_t kAlign = storage::kDirectAlignment;

int64_t EndOf(const BlockPlace& block) { return block.offset_bytes + block.size_bytes; }

// Blocks to fill: absent needed ones, and runs of absent ones between two of them that are short enough.
std::vector<uint32_t> BlocksToFill(absl::Span<const BlockPlace> blocks, const std::vector<bool>& needed,
                                   const std::vector<bool>& verified) {
  std::vector<uint32_t> fill;
  for (uint32_t i = 0; i < blocks.size(); ++i) {
    if (!needed[i] || verified[i]) continue;
    if (!fill.empty() && blocks[i].offset_bytes - EndOf(blocks[fill.back()]) <= kMaxGapBytes) {
      const uint32_t gap_begin = fill.back() + 1;
      if (std::find(verified.begin() + gap_begin, verified.begin() + i, true) == verified.begin() + i) {
        for (uint32_t bridged = gap_begin; bridged < i; ++bridged) fill.push_back(bridged);
      }
    }
    fill.push_back(i);
  }
  return fill;
}

// Whether a verified block outside [first, last] has bytes in `range`.
bool TouchesVerified(absl::Span<const BlockPlace> blocks, const std::vector<bool>& verified, uint32_t first,
                     uint32_t last, reshard::ByteRange range) {
  for (uint32_t i = first; i-- > 0 && EndOf(blocks[i]) > range.begin;) {
    if (verified[i]) return true;
  }
  for (uint32_t i = last + 1; i < blocks.size() && blocks[i].offset_bytes < range.end; ++i) {
    if (verified[i]) return true;
  }
  return false;
}

void AddReads(const StoredBlob& blob, absl::Span<const BlockPlace> blocks, const std::vector<bool>& verified,
              uint32_t first, uint32_t last, std::vector<reshard::ByteRange>& reads) {
  const reshard::ByteRange exact{blocks[first].offset_bytes, EndOf(blocks[last])};
  const int64_t begin = exact.begin / kAlign * kAlign;
  const int64_t end = (exact.end + kAlign - 1) / kAlign * kAlign;
  reshard::ByteRange read = exact;
  if (!TouchesVerified(blocks, verified, first, last, {begin, exact.end})) read.begin = begin;
  if (!TouchesVerified(blocks, verified, first, last, {exact.begin, end}))
    read.end = std::min(end, blob.size_bytes);
  const int64_t aligned_end = read.end / kAlign * kAlign;
  if (aligned_end > read.begin &&
      aligned_end < read.end) {  // an odd end must not make the whole read indirect
    reads.push_back({read.begin, aligned_end});
    read.begin = aligned_end;
  }
  reads.push_back(read);
}

bool IsGood(const BlockPlace& block, const std::byte* bytes) {
  const storage::Digest128 digest =
      storage::DigestOf(absl::MakeConstSpan(bytes, static_cast<size_t>(block.size_bytes)));
  return std::memcmp(digest.bytes.data(), block.digest.data(), storage::kDigestBytes) == 0;
}

}  // namespace

FillPlan PlanFill(const StoredBlob& blob, absl::Span<const BlockPlace> blocks,
                  const std::vector<bool>& needed, const std::vector<bool>& verified) {
  FillPlan plan;
  plan.blocks = BlocksToFill(blocks, needed, verified);
  for (size_t begin = 0; begin < plan.blocks.size();) {
    size_t end = begin + 1;
    while (end < plan.blocks.size() && plan.blocks[end] == plan.blocks[end - 1] + 1) ++end;
    AddReads(blob, blocks, verified, plan.blocks[begin], plan.blocks[end - 1], plan.reads);
    begin = end;
  }
  for (uint32_t block : plan.blocks) plan.read_bytes += blocks[block].size_bytes;
  return plan;
}

std::vector<uint32_t> VerifyFill(const StoredCheckpoint& from, const StoredBlob& blob,
                                 absl::Span<const BlockPlace> blocks, const std::vector<bool>& needed,
                                 const FillPlan& plan, storage::BlobReader& reader, std::byte* image,
                                 int64_t image_begin_bytes, absl::Status* status) {
  std::vector<uint32_t> good;
  for (uint32_t index : plan.blocks) {
    const BlockPlace& block = blocks[index];
    std::byte* bytes = image + (block.offset_bytes - image_begin_bytes);
    bool is_good = IsGood(block, bytes);
    if (!is_good) {
      const auto into = absl::MakeSpan(bytes, static_cast<size_t>(block.size_bytes));
      is_good = storage::ReadExactly(reader, block.offset_bytes, into).ok() && IsGood(block, bytes);
    }
    if (is_good) {
      good.push_back(index);
    } else if (needed[index] && status->ok()) {
      *status = absl::DataLossError(absl::StrCat(
          blob.path.text(), ": the block of ", block.size_bytes, " bytes at offset ", block.offset_bytes,
          " (", from.extent(block.extent).owner, ") does not match its digest"));
    }
  }
  return good;
}

}  // namespace keepstep::daemon
