// Reads out of a checkpoint into the daemon: boxes of tensors for gRPC readers, extras.

#ifndef KEEPSTEP_DAEMON_READ_BOX_H_
#define KEEPSTEP_DAEMON_READ_BOX_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/data_plane.h"
#include "daemon/stored_checkpoint.h"
#include "reshard/box.h"
#include "storage/blob_store.h"

namespace keepstep::daemon {

struct ReadSource {
  std::shared_ptr<storage::BlobStore> store;
  std::string cache_prefix;
  std::shared_ptr<const StoredCheckpoint> from;
};

// Gives the bytes of `box`, row-major and verified, to `sink` in pieces of at most `piece_bytes`, in order;
// an error of the sink ends it. Blocks. NOT_FOUND: no such tensor; INVALID_ARGUMENT: a box outside its
// shape; errors of RunLoad.
absl::Status ReadBox(DataPlane& plane, const ReadSource& source, absl::string_view fqn,
                     const reshard::Box& box, int64_t piece_bytes,
                     const std::function<absl::Status(absl::string_view)>& sink, Cancellation& cancel);

// The items of one extra, verified. Blocks. DATA_LOSS; errors of the store; RESOURCE_EXHAUSTED above 64 MiB.
absl::StatusOr<std::vector<std::string>> ReadExtra(const ReadSource& source, const StoredExtra& extra);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_READ_BOX_H_
