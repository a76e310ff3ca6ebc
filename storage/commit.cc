// The blocking side of the commit protocol: drives a machine against a store, and publishes parts.

#include "storage/commit.h"

#include <utility>

#include "storage/attempt.h"
#include "storage/digest.h"
#include "storage/part.h"
#include "storage/record.h"

namespace keepstep::storage {

CommitOutcome Decide(BlobStore& store, CommitMachine machine) {
  StoreResult result;
  std::variant<StoreOp, CommitOutcome> next = machine.Next(nullptr);
  while (const StoreOp* op = std::get_if<StoreOp>(&next)) {
    result = RunStoreOp(store, *op);
    next = machine.Next(&result);
  }
  return std::get<CommitOutcome>(std::move(next));
}

PartSummary SummaryOf(const v1::Part& part, absl::string_view bytes) {
  PartSummary summary{.digest = DigestOf(bytes).ToBytes(),
                      .size_bytes = static_cast<int64_t>(bytes.size()),
                      .attempt = part.attempt(),
                      .index = part.index(),
                      .count = part.count(),
                      .intent = part.intent()};
  for (const v1::Blob& blob : part.blobs()) summary.blobs.emplace_back(blob.name(), blob.size_bytes());
  return summary;
}

StoreOp PublishPartOp(int64_t step, const v1::Part& part) {
  StoreOp op;
  op.kind = StoreOp::Kind::kPublish;
  op.path = AttemptDir(step, part.attempt()) + "/" + PartName(part.index());
  op.bytes = EncodePart(part);
  return op;
}

absl::StatusOr<PartSummary> PublishPart(BlobStore& store, int64_t step, const v1::Part& part) {
  if (absl::Status status = ValidatePart(part); !status.ok()) return status;
  const StoreOp op = PublishPartOp(step, part);
  const absl::Status published = RunStoreOp(store, op).status;
  if (absl::IsAborted(published)) return published;
  if (!published.ok()) {
    StoreOp reread;
    reread.kind = StoreOp::Kind::kReadPublished;
    reread.path = op.path;
    const StoreResult there = RunStoreOp(store, reread);
    if (!there.status.ok() || there.bytes != op.bytes) return published;
  }
  return SummaryOf(part, op.bytes);
}

}  // namespace keepstep::storage
