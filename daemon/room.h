// Whether a save has room, asked before a byte of it is written.

#ifndef KEEPSTEP_DAEMON_ROOM_H_
#define KEEPSTEP_DAEMON_ROOM_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "storage/blob_store.h"

namespace keepstep::daemon {

// RESOURCE_EXHAUSTED, with the numbers and what to do: DISK_FULL when fewer than `needed_bytes` are free,
// QUOTA when with them the job `label` would hold more than `quota_bytes` (0: no quota). Storage that does
// not say what is free, or what is there, refuses nothing: the write will. Blocks; with a quota, for a
// listing of the whole job.
absl::Status CheckRoom(storage::BlobStore& store, const std::string& label, int64_t needed_bytes,
                       int64_t quota_bytes);

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_ROOM_H_
