#include "daemon/room.h"

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "daemon/error.h"
#include "daemon/log.h"
#include "storage/usage.h"

namespace keepstep::daemon {
namespace {

absl::Status NoRoom(absl::string_view reason, const std::string& label, absl::string_view numbers) {
  return MakeError(
      absl::StatusCode::kResourceExhausted, reason,
      absl::StrCat("This save of ", label, " ", numbers,
                   " Nothing was written; earlier checkpoints are intact. What may go: keepstep gc ", label,
                   " --dry-run"),
      "plan");
}

}  // namespace

absl::Status CheckRoom(storage::BlobStore& store, const std::string& label, int64_t needed_bytes,
                       int64_t quota_bytes) {
  const absl::StatusOr<int64_t> free_bytes = store.SpaceAvailable();
  if (free_bytes.ok() && needed_bytes > *free_bytes) {
    return NoRoom(
        "DISK_FULL", label,
        absl::StrCat("needs ", HumanBytes(needed_bytes), " of space; ", HumanBytes(*free_bytes), " are free."));
  }
  if (quota_bytes <= 0) return absl::OkStatus();
  const absl::StatusOr<int64_t> held_bytes = storage::StoredBytes(store);
  if (!held_bytes.ok() || needed_bytes <= quota_bytes - *held_bytes) return absl::OkStatus();
  return NoRoom("QUOTA", label,
                absl::StrCat("needs ", HumanBytes(needed_bytes), "; the job holds ", HumanBytes(*held_bytes),
                             " of its ", HumanBytes(quota_bytes), "."));
}

}  // namespace keepstep::daemon
