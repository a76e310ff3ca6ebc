// What a failed system call means to a caller of a blob store.

#ifndef KEEPSTEP_STORAGE_ERRNO_STATUS_H_
#define KEEPSTEP_STORAGE_ERRNO_STATUS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace keepstep::storage {

// A failed read can be tried again (UNAVAILABLE); after a failed write or flush the blob is lost (ABORTED).
// The rest is alike.
enum class IoSide { kRead, kWrite };

// The status of errno value `error` from `syscall` on `path`; the message names all three.
absl::Status ErrnoStatus(IoSide side, int error, absl::string_view syscall, absl::string_view path);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_ERRNO_STATUS_H_
