// The one failure of storage that somebody can mend by freeing space, told apart from all others.

#ifndef KEEPSTEP_STORAGE_DISK_FULL_H_
#define KEEPSTEP_STORAGE_DISK_FULL_H_

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace keepstep::storage {

// An absl::Status carries its reason, an entry of docs/errors.md, under this name.
inline constexpr char kReasonPayload[] = "keepstep/reason";

inline constexpr char kDiskFull[] = "DISK_FULL";

// RESOURCE_EXHAUSTED because a disk or a quota has no room.
inline absl::Status DiskFull(absl::string_view message) {
  absl::Status status = absl::ResourceExhaustedError(message);
  status.SetPayload(kReasonPayload, absl::Cord(kDiskFull));
  return status;
}

inline bool IsDiskFull(const absl::Status& status) {
  return absl::IsResourceExhausted(status) && status.GetPayload(kReasonPayload) == absl::Cord(kDiskFull);
}

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_DISK_FULL_H_
