// Builds the bytes first and describes them afterwards, as the pipelines do.

#include "storage/test_parts.h"

#include "absl/strings/str_cat.h"
#include "reshard/check.h"
#include "storage/commit.h"
#include "storage/digest.h"
#include "storage/record.h"

namespace keepstep::storage {
namespace {

constexpr int64_t kHeaderBytes = 64;
constexpr int64_t kRowBytes = 4 * 4;

BlobPath Path(const std::string& text) {
  absl::StatusOr<BlobPath> path = BlobPath::Parse(text);
  KEEPSTEP_CHECK(path.ok(), "test paths are valid");
  return *path;
}

void AddExtent(v1::Part& part, uint32_t tensor, const std::string& blob, int64_t offset_bytes,
               int64_t size_bytes, const v1::Box& box) {
  const std::string bytes = blob.substr(offset_bytes, size_bytes);
  ExtentDigests digests =
      DigestExtent(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
  v1::Extent* extent = part.add_extents();
  extent->set_tensor(tensor);
  *extent->mutable_box() = box;
  extent->set_offset_bytes(offset_bytes);
  extent->set_size_bytes(size_bytes);
  extent->set_digest(digests.digest.ToBytes());
  extent->set_block_digests(digests.block_digests);
}

void AddWeights(v1::Part& part, const std::string& blob, int node, int nodes) {
  v1::TensorMeta* meta = part.add_tensors()->mutable_meta();
  meta->set_fqn("w");
  meta->set_dtype("F32");
  meta->add_shape(2 * nodes);
  meta->add_shape(4);
  v1::Box box;
  box.add_origin(2 * node);
  box.add_origin(0);
  box.add_shape(2);
  box.add_shape(4);
  AddExtent(part, 0, blob, kHeaderBytes, 2 * kRowBytes, box);
}

void AddBias(v1::Part& part, const std::string& blob) {
  v1::StoredTensor* tensor = part.add_tensors();
  tensor->mutable_meta()->set_fqn("b");
  tensor->mutable_meta()->set_dtype("F32");
  tensor->mutable_meta()->add_shape(4);
  tensor->add_aliases("tied");
  v1::Box box;
  box.add_origin(0);
  box.add_shape(4);
  AddExtent(part, 1, blob, kHeaderBytes + 2 * kRowBytes, kRowBytes, box);
}

v1::Decision MakeIntent(int64_t step, const AttemptId& attempt, int nodes) {
  v1::Decision intent;
  intent.set_format_version(kRecordVersion);
  intent.set_kind(v1::Decision::COMMIT);
  intent.set_step(step);
  intent.set_attempt(AttemptName(attempt));
  intent.set_epoch(attempt.epoch);
  intent.set_layout(absl::StrCat("layout-", nodes));
  intent.set_world_size(nodes);
  intent.set_time_unix_ms(1'700'000'000'000 + step);
  (*intent.mutable_metrics())["loss"] = 0.5;
  return intent;
}

}  // namespace

TestCheckpoint MakeTestCheckpoint(int64_t step, const AttemptId& attempt, int nodes) {
  TestCheckpoint result;
  result.step = step;
  result.attempt = AttemptName(attempt);
  for (int node = 0; node < nodes; ++node) {
    std::string blob(kHeaderBytes + (node == 0 ? 3 : 2) * kRowBytes, '\0');
    for (size_t i = 0; i < blob.size(); ++i) blob[i] = static_cast<char>(i * 7 + step * 13 + node * 31);
    v1::Part part;
    part.set_format_version(kRecordVersion);
    part.set_attempt(result.attempt);
    part.set_index(node);
    part.set_count(nodes);
    v1::Blob* info = part.add_blobs();
    info->set_name(BlobName(reshard::Component::kModel, node, nodes));
    info->set_size_bytes(static_cast<int64_t>(blob.size()));
    info->set_header_bytes(kHeaderBytes);
    info->set_header_digest(DigestOf(absl::string_view(blob).substr(0, kHeaderBytes)).ToBytes());
    AddWeights(part, blob, node, nodes);
    if (node == 0) AddBias(part, blob);
    *part.mutable_intent() = MakeIntent(step, attempt, nodes);
    result.parts.push_back(std::move(part));
    result.part_names.push_back(PartName(node));
    result.blobs.push_back(std::move(blob));
  }
  return result;
}

void WriteTestBlobs(BlobStore& store, const TestCheckpoint& checkpoint) {
  for (size_t i = 0; i < checkpoint.parts.size(); ++i) {
    const std::string path =
        AttemptDir(checkpoint.step, checkpoint.attempt) + "/" + checkpoint.parts[i].blobs(0).name();
    KEEPSTEP_CHECK(PutBlob(store, Path(path), checkpoint.blobs[i]).ok(), "test blobs can be written");
  }
}

void WriteTestCheckpoint(BlobStore& store, const TestCheckpoint& checkpoint) {
  WriteTestBlobs(store, checkpoint);
  for (const v1::Part& part : checkpoint.parts) {
    KEEPSTEP_CHECK(PublishPart(store, checkpoint.step, part).ok(), "test parts can be published");
  }
}

v1::Decision CommitTestCheckpoint(BlobStore& store, const TestCheckpoint& checkpoint) {
  WriteTestCheckpoint(store, checkpoint);
  CommitOutcome outcome =
      Decide(store, CommitMachine(CommitMachine::Want::kCommit, checkpoint.intent(), checkpoint.part_names));
  KEEPSTEP_CHECK(outcome.kind == CommitOutcome::Kind::kCommitted, "test checkpoints commit");
  return outcome.decision;
}

}  // namespace keepstep::storage
