#include "daemon/doctor.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "storage/blob_path.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {
namespace {

constexpr rlim_t kFewDescriptors = 4096;

void Add(v1::DoctorResponse& response, const std::string& name, v1::Check::Result result,
         const std::string& found, const std::string& remedy = "") {
  v1::Check* check = response.add_checks();
  check->set_name(name);
  check->set_result(result);
  check->set_found(found);
  if (result != v1::Check::OK) check->set_remedy(remedy);
}

void CheckEngine(const ServerState& state, v1::DoctorResponse& response) {
  const bool uring = state.io_engine == "io_uring";
  Add(response, "io engine", uring ? v1::Check::OK : v1::Check::WARNING,
      absl::StrCat(state.io_engine, ": ", state.io_engine_reason),
      "Allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile, and "
      "kernel.io_uring_disabled=0.");
}

void CheckPool(const ServerState& state, v1::DoctorResponse& response) {
  const auto stats = state.plane->pool().stats();
  Add(response, "staging pool", v1::Check::OK,
      absl::StrCat(HumanBytes(stats.capacity_bytes), " of at most ", HumanBytes(stats.limit_bytes)));
}

void CheckDescriptors(v1::DoctorResponse& response) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  Add(response, "open files", limit.rlim_cur >= kFewDescriptors ? v1::Check::OK : v1::Check::WARNING,
      absl::StrCat(limit.rlim_cur), "Raise LimitNOFILE (ulimit -n) to 65536 or more.");
}

void CheckPull(v1::DoctorResponse& response) {
  char from = 1, to = 0;
  iovec local{&to, 1}, remote{&from, 1};
  const bool works = process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
  Add(response, "pull", works ? v1::Check::OK : v1::Check::WARNING,
      works ? "process_vm_readv works here; each trainer is probed when it connects" : strerror(errno),
      "Saves go through the window, which costs one more copy. Allow process_vm_readv and process_vm_writev "
      "in the seccomp profile.");
}

void CheckRoots(const ServerState& state, v1::DoctorResponse& response) {
  for (const std::string& root : state.jobs->roots()) {
    const std::string name = absl::StrCat("root ", root);
    if (access(root.c_str(), W_OK) != 0) {
      Add(response, name, v1::Check::FAILED, strerror(errno),
          absl::StrCat("Let uid ", geteuid(), " write there."));
      continue;
    }
    struct statvfs info {};
    statvfs(root.c_str(), &info);
    const int64_t free_bytes = static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
    const bool tight = info.f_bavail < info.f_blocks / 20;
    Add(response, name, tight ? v1::Check::WARNING : v1::Check::OK,
        absl::StrCat(HumanBytes(free_bytes), " free"),
        "Less than 5 % is free: delete checkpoints (`keepstep rm`).");
    std::string scratch = absl::StrCat(root, "/.keepstep-doctor-XXXXXX");
    storage::UniqueFd probe(mkostemp(scratch.data(), O_CLOEXEC | O_DIRECT));
    const int error = errno;
    if (probe.valid()) unlink(scratch.c_str());
    Add(response, absl::StrCat("O_DIRECT on ", root), probe.valid() ? v1::Check::OK : v1::Check::WARNING,
        probe.valid() ? "works" : strerror(error),
        "Writes go through the page cache. Use a file system with O_DIRECT (ext4, XFS).");
  }
}

void CheckStores(const ServerState& state, v1::DoctorResponse& response) {
  for (const auto& job : state.jobs->All()) {
    auto scratch = storage::BlobPath::Parse(absl::StrCat("epochs/.doctor-", getpid()));
    const absl::Status status = storage::Probe(*job->store(), *scratch);
    Add(response, absl::StrCat("exclusive publish in ", job->label()),
        status.ok() ? v1::Check::OK : v1::Check::FAILED,
        status.ok() ? "a second publish is refused" : std::string(status.message()),
        "Commits cannot be trusted on this file system. Move the job to a local or NFSv4 one.");
  }
}

}  // namespace

v1::DoctorResponse Examine(const ServerState& state) {
  v1::DoctorResponse response;
  CheckEngine(state, response);
  CheckPool(state, response);
  CheckDescriptors(response);
  CheckPull(response);
  CheckRoots(state, response);
  CheckStores(state, response);
  return response;
}

}  // namespace keepstep::daemon
