// The state directory, roots, the jobs' stores, and whose files would be there.

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "daemon/doctor.h"
#include "storage/blob_path.h"
#include "storage/ownership.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {
namespace {

constexpr int64_t kLittleStateBytes = int64_t{1} << 30;

int64_t FreeBytes(const std::string& path, bool* tight) {
  struct statvfs info {};
  if (statvfs(path.c_str(), &info) != 0) return -1;
  *tight = info.f_bavail < info.f_blocks / 20;
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

bool IsRemote(const std::string& path) {
  constexpr decltype(statfs::f_type) kRemote[] = {0x6969 /* NFS */,      0x517b /* SMB */,
                                                  0xff534d42 /* CIFS */, 0x0bd00bd0 /* Lustre */,
                                                  0x47504653 /* GPFS */, 0x00c36400 /* Ceph */};
  struct statfs info {};
  if (statfs(path.c_str(), &info) != 0) return false;
  for (const auto type : kRemote) {
    if (info.f_type == type) return true;
  }
  return false;
}

void CheckStateDirectory(const ServerState& state, v1::DoctorResponse& response) {
  const std::string& path = state.state_directory;
  bool tight = false;
  const int64_t free_bytes = FreeBytes(path, &tight);
  const bool remote = IsRemote(path);
  const bool writable = access(path.c_str(), W_OK) == 0;
  const v1::Check::Result result = !writable                                  ? v1::Check::FAILED
                                   : remote || free_bytes < kLittleStateBytes ? v1::Check::WARNING
                                                                              : v1::Check::OK;
  AddCheck(response, "state directory", result,
           absl::StrCat(path, ", ", free_bytes < 0 ? "?" : HumanBytes(free_bytes), " free",
                        remote ? ", on a network file system" : ""),
           !writable ? "The journal cannot be written: let the daemon's user write there."
           : remote  ? "Every save waits for it: put state_dir on a local disk."
                     : "Little is free: the journal and the catalog need some.");
}

void CheckDirect(const std::string& root, v1::DoctorResponse& response) {
  std::string scratch = absl::StrCat(root, "/.keepstep-doctor-XXXXXX");
  storage::UniqueFd probe(mkostemp(scratch.data(), O_CLOEXEC | O_DIRECT));
  const int error = errno;
  if (probe.valid() || error == EINVAL) unlink(scratch.c_str());  // EINVAL: made, but not opened
  AddCheck(response, absl::StrCat("O_DIRECT on ", root), probe.valid() ? v1::Check::OK : v1::Check::WARNING,
           probe.valid() ? "works" : strerror(error),
           "Writes go through the page cache. Use a file system with O_DIRECT (ext4, XFS).");
}

void CheckRoot(const ServerState& state, const std::string& root, v1::DoctorResponse& response) {
  const std::string name = absl::StrCat("root ", root);
  if (access(root.c_str(), state.read_only ? R_OK | X_OK : R_OK | W_OK | X_OK) != 0) {
    AddCheck(response, name, v1::Check::FAILED, strerror(errno),
             absl::StrCat("Let uid ", geteuid(), state.read_only ? " read there." : " write there."));
    return;
  }
  bool tight = false;
  const int64_t free_bytes = FreeBytes(root, &tight);
  AddCheck(response, name, tight ? v1::Check::WARNING : v1::Check::OK,
           absl::StrCat(HumanBytes(free_bytes), " free"),
           "Less than 5 % is free: see what may go with `keepstep gc --dry-run`.");
  if (!state.read_only) CheckDirect(root, response);
}

void CheckPublish(const Job& job, v1::DoctorResponse& response) {
  auto scratch = storage::BlobPath::Parse(absl::StrCat("epochs/.doctor-", getpid()));
  const absl::Status status = storage::Probe(*job.store(), *scratch);
  AddCheck(response, absl::StrCat("exclusive publish in ", job.label()),
           status.ok() ? v1::Check::OK : v1::Check::FAILED,
           status.ok() ? "a second publish is refused" : std::string(status.message()),
           "Commits cannot be trusted on this file system. Move the job to a local or NFSv4 one.");
}

void CheckOwnership(const Job& job, v1::DoctorResponse& response) {
  const std::string name = absl::StrCat("file ownership in ", job.label());
  storage::UniqueFd directory(
      open(job.identity().path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  struct stat info {};
  if (!directory.valid() || fstat(directory.get(), &info) != 0) {
    AddCheck(response, name, v1::Check::WARNING, absl::StrCat(job.identity().path, ": ", strerror(errno)),
             "The daemon keeps the directory that a client handed over, but cannot open it again after a "
             "restart.");
    return;
  }
  const char* reason = "";
  const absl::Status status = storage::ProbeOwnership(directory.get(), storage::Ownership(info), &reason);
  AddCheck(response, name, status.ok() ? v1::Check::OK : v1::Check::FAILED,
           status.ok() ? absl::StrCat("files belong to uid ", info.st_uid, ", gid ", info.st_gid,
                                      ", as the directory does")
                       : std::string(status.message()),
           absl::StrCat("Trainers are refused", *reason == '\0' ? "" : absl::StrCat(" (", reason, ")"),
                        ": run the daemon as root or as uid ", info.st_uid, "."));
}

}  // namespace

void CheckStorage(const ServerState& state, const ClientSession* session, v1::DoctorResponse& response) {
  CheckStateDirectory(state, response);
  for (const std::string& root : state.jobs->roots()) CheckRoot(state, root, response);
  if (state.read_only) return;
  AddCheck(response, "file ownership", v1::Check::OK,
           geteuid() == 0 ? "runs as root: files belong to whom the job's directory belongs to"
                          : absl::StrCat("runs as uid ", geteuid(), ": for directories of that user alone"));
  for (const auto& job : state.jobs->VisibleTo(session)) {
    CheckPublish(*job, response);
    CheckOwnership(*job, response);
  }
}

}  // namespace keepstep::daemon
