// The parts of a checkpoint and what is asked of it: decoding, the index that loads use, QueryTensors.
//
// Parts that are taken tile their blobs with blocks; a query's pages name every tensor once, in order.

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/chunk_grid.h"
#include "daemon/query_tensors.h"
#include "daemon/stored_checkpoint.h"
#include "reshard/check.h"
#include "storage/digest.h"
#include "storage/part.h"
#include "storage/record.h"
#include "tests/fuzz/cases.pb.h"
#include "tests/fuzz/proto_mutator.h"

namespace keepstep::fuzz {
namespace {

using daemon::StoredCheckpoint;

constexpr int64_t kMostMendedBytes = 64 << 20;  // of an extent: its block digests are made for real

// Puts an extent behind the one before it and gives it digests that agree.
template <typename Extent>
void Lay(v1::Part& part, Extent& extent, int64_t size_bytes) {
  if (size_bytes < 0 || size_bytes > kMostMendedBytes || part.blobs_size() == 0) return;
  extent.set_blob(extent.blob() % static_cast<uint32_t>(part.blobs_size()));
  v1::Blob& blob = *part.mutable_blobs(static_cast<int>(extent.blob()));
  extent.set_offset_bytes(blob.size_bytes());
  extent.set_size_bytes(size_bytes);
  blob.set_size_bytes(blob.size_bytes() + size_bytes);
  extent.mutable_block_digests()->resize(storage::BlockCount(size_bytes) * storage::kDigestBytes, 'd');
  extent.set_digest(storage::DigestOf(absl::string_view(extent.block_digests())).ToBytes());
}

void Mend(v1::Part& part, uint32_t index, uint32_t count) {
  part.set_index(index);
  part.set_count(count);
  part.set_attempt("e1-a1-00000000000000aa");
  for (v1::Blob& blob : *part.mutable_blobs()) {
    blob.set_header_bytes(4096);
    blob.set_size_bytes(4096);
    blob.mutable_header_digest()->resize(storage::kDigestBytes, 'h');
  }
  for (v1::Extent& extent : *part.mutable_extents()) {
    if (part.tensors_size() == 0) break;
    extent.set_tensor(extent.tensor() % static_cast<uint32_t>(part.tensors_size()));
    const auto meta = storage::TensorMetaFromRecord(part.tensors(static_cast<int>(extent.tensor())).meta());
    const reshard::Box box = storage::BoxFromRecord(extent.box());
    if (!meta.ok() || !reshard::ValidateBox(box, meta->shape).ok()) continue;
    Lay(part, extent, reshard::NumElements(box) * reshard::SizeBytes(meta->dtype));
  }
  for (v1::ExtraRecord& extra : *part.mutable_extras()) {
    for (v1::ExtraItem& item : *extra.mutable_items()) Lay(part, item, item.size_bytes());
  }
}

// Chunks hold every block of a blob once, in order, each at most a block long.
void CheckBlocks(const StoredCheckpoint& from, const daemon::StoredBlob& blob) {
  int64_t at = blob.header_bytes;
  for (const daemon::Chunk& chunk : blob.chunks) {
    KEEPSTEP_CHECK(chunk.begin == at, "a hole between chunks");
    for (const daemon::BlockPlace& block : from.BlocksOf(blob, chunk)) {
      KEEPSTEP_CHECK(block.offset_bytes == at, "a hole between blocks");
      KEEPSTEP_CHECK(block.size_bytes > 0 && block.size_bytes <= storage::kBlockBytes,
                     "a block of another size");
      KEEPSTEP_CHECK(block.digest.size() == storage::kDigestBytes, "a block without a digest");
      at += block.size_bytes;
    }
    KEEPSTEP_CHECK(chunk.end == at, "a chunk that is not its blocks");
  }
  KEEPSTEP_CHECK(at == blob.size_bytes, "blocks that do not cover the blob");
}

void CheckPages(const StoredCheckpoint& from, v1::QueryTensorsRequest request) {
  request.clear_page_token();
  request.clear_wanted();
  size_t seen = 0;
  std::string last;
  const size_t most_pages = from.names().size() + 1;
  for (size_t page = 0; page <= most_pages; ++page) {
    v1::QueryTensorsResponse response;
    if (!daemon::QueryTensors(from, request, response).ok()) return;
    for (const v1::TensorInfo& info : response.tensors()) {
      const std::string& name = info.tensor().meta().fqn();
      KEEPSTEP_CHECK(last.empty() || last < name, "pages out of order");
      KEEPSTEP_CHECK(absl::StartsWith(name, request.prefix()), "a name without the prefix");
      KEEPSTEP_CHECK(from.Find(name) != nullptr, "a name that is not stored");
      last = name;
      ++seen;
    }
    if (response.next_page_token().empty()) {
      const auto count =
          std::count_if(from.names().begin(), from.names().end(),
                        [&](const std::string& name) { return absl::StartsWith(name, request.prefix()); });
      KEEPSTEP_CHECK(request.has_box() || seen == static_cast<size_t>(count),
                     "tensors are missing from the pages");
      return;
    }
    request.set_page_token(response.next_page_token());
  }
  KEEPSTEP_CHECK(false, "pages without an end");
}

void TestPart(const PartCase& value) {
  std::vector<v1::Part> parts;
  for (int i = 0; i < value.parts_size(); ++i) {
    v1::Part part = value.parts(i);
    if (value.mend()) Mend(part, static_cast<uint32_t>(i), static_cast<uint32_t>(value.parts_size()));
    const std::string written = storage::EncodePart(part);
    auto read = storage::DecodePart(written);
    if (!read.ok()) {
      KEEPSTEP_CHECK(absl::IsDataLoss(read.status()), "a part refused with another code than DATA_LOSS");
      return;
    }
    KEEPSTEP_CHECK(storage::DigestOf(storage::EncodePart(*read)) == storage::DigestOf(written),
                   "a part has another digest when it is written again");
    parts.push_back(*std::move(read));
  }
  const auto directory = storage::BlobPath::Parse("000000000001/e1-a1-00000000000000aa");
  const auto stored = StoredCheckpoint::Make(*directory, std::move(parts), daemon::MinChunkBufferBytes());
  if (!stored.ok()) {
    KEEPSTEP_CHECK(absl::IsDataLoss(stored.status()), "parts refused with another code than DATA_LOSS");
    return;
  }
  for (const daemon::StoredBlob& blob : (*stored)->blobs()) CheckBlocks(**stored, blob);
  for (const std::string& name : (*stored)->names()) {
    for (const reshard::StoredBox& box : (*stored)->Find(name)->boxes) {
      KEEPSTEP_CHECK(box.extent < (*stored)->extent_count(), "a box without an extent");
    }
  }
  v1::QueryTensorsResponse response;
  daemon::QueryTensors(**stored, value.query(), response).IgnoreError();
  CheckPages(**stored, value.query());
}

}  // namespace
}  // namespace keepstep::fuzz

KEEPSTEP_FUZZ_CASES(keepstep::fuzz::PartCase, keepstep::fuzz::TestPart)
