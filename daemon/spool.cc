#include "daemon/spool.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "daemon/error.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kKeptFree = 20;  // a twentieth of the disk

absl::Status Failed(absl::string_view what, int error) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return MakeError(full ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kUnavailable,
                   full ? "DISK_FULL" : "STORE_FAILED",
                   absl::StrCat(what, " of the spool file: ", error == 0 ? "short" : strerror(error)));
}

}  // namespace

absl::StatusOr<std::shared_ptr<Spool>> Spool::Make(const std::string& directory, int64_t size_bytes) {
  struct statvfs disk {};
  if (statvfs(directory.c_str(), &disk) != 0) return Failed("asking for the space", errno);
  const auto block_bytes = static_cast<int64_t>(disk.f_frsize);
  const int64_t left_bytes =
      (static_cast<int64_t>(disk.f_bavail) - static_cast<int64_t>(disk.f_blocks) / kKeptFree) * block_bytes;
  if (size_bytes > left_bytes) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, "DISK_FULL",
        absl::StrCat("The attempt has ", size_bytes, " bytes; ", directory, " can take ",
                     std::max<int64_t>(left_bytes, 0), " more. Free some, or use another --state-dir."),
        "begin");
  }
  std::string path = absl::StrCat(directory, "/spool-XXXXXX");
  storage::UniqueFd fd(mkostemp(path.data(), O_CLOEXEC));
  if (!fd.valid()) return Failed("open", errno);
  unlink(path.c_str());
  const int error = size_bytes == 0 ? 0 : posix_fallocate(fd.get(), 0, size_bytes);
  if (error != 0 && error != EOPNOTSUPP && error != EINVAL) return Failed("reserving", error);
  return std::shared_ptr<Spool>(new Spool(std::move(fd)));
}

absl::Status Spool::Put(int64_t offset_bytes, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = pwrite(fd_.get(), bytes.data(), bytes.size(), offset_bytes);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return Failed("writing", wrote < 0 ? errno : 0);
    bytes.remove_prefix(wrote);
    offset_bytes += wrote;
  }
  return absl::OkStatus();
}

absl::Status Spool::Read(absl::Span<const MemoryRun> runs, Cancellation& cancel) {
  for (const MemoryRun& run : runs) {
    if (cancel.cancelled()) return cancel.status();
    int64_t done = 0;
    while (done < run.size_bytes) {
      const ssize_t got = pread(fd_.get(), run.local + done, run.size_bytes - done,
                                static_cast<int64_t>(run.address - kBase) + done);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return Failed("reading", got < 0 ? errno : 0);
      done += got;
    }
  }
  return absl::OkStatus();
}

absl::Status Spool::Write(absl::Span<const MemoryRun> runs, Cancellation& cancel) {
  for (const MemoryRun& run : runs) {
    if (cancel.cancelled()) return cancel.status();
    const absl::string_view bytes(reinterpret_cast<const char*>(run.local), run.size_bytes);
    if (absl::Status status = Put(static_cast<int64_t>(run.address - kBase), bytes); !status.ok())
      return status;
  }
  return absl::OkStatus();
}

}  // namespace keepstep::daemon
