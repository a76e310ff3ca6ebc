// Builds a node's part from what its ranks' pipelines left on storage. Pure.

#ifndef KEEPSTEP_DAEMON_PART_BUILDER_H_
#define KEEPSTEP_DAEMON_PART_BUILDER_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "daemon/save_result.h"
#include "proto/storage.pb.h"

namespace keepstep::daemon {

// The shares in the order of ranks, whatever their order here. `intent` is the decision that this part
// would allow.
v1::Part BuildPart(absl::string_view attempt, uint32_t index, uint32_t count,
                   absl::Span<const SavedShare* const> shares, const v1::Decision& intent);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_PART_BUILDER_H_
