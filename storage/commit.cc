// The blocking side of the commit protocol: drives a machine against a store, and publishes parts.

#include "storage/commit.h"

#include <utility>

#include "storage/attempt.h"
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

StoreOp PublishPartOp(int64_t step, v1::Part part) {
  StoreOp op;
  op.kind = StoreOp::Kind::kPublish;
  op.path = AttemptDir(step, part.attempt()) + "/" + PartName(part.index());
  op.bytes = EncodePart(std::move(part));
  return op;
}

absl::Status PublishPart(BlobStore& store, int64_t step, v1::Part part) {
  const StoreOp op = PublishPartOp(step, std::move(part));
  const absl::Status published = RunStoreOp(store, op).status;
  if (published.ok() || absl::IsAborted(published)) return published;
  StoreOp reread;
  reread.kind = StoreOp::Kind::kReadPublished;
  reread.path = op.path;
  const StoreResult there = RunStoreOp(store, reread);
  return there.status.ok() && there.bytes == op.bytes ? absl::OkStatus() : published;
}

}  // namespace keepstep::storage
