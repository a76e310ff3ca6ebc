// Staging pool, locked memory, shared memory, reading the trainers' memory.

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "daemon/doctor.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {
namespace {

constexpr int kCapSysPtrace = 19;

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  return std::getline(file, line) ? line : "";
}

// What the control group of this process allows; 0: no limit, or none to be seen. Version 2 alone.
int64_t GroupLimit() {
  std::string group = FirstLine("/proc/self/cgroup");
  const size_t colons = group.find("::");
  if (colons == std::string::npos) return 0;
  int64_t bytes = 0;
  const std::string text = FirstLine(absl::StrCat("/sys/fs/cgroup", group.substr(colons + 2), "/memory.max"));
  return absl::SimpleAtoi(text, &bytes) ? bytes : 0;
}

void CheckPool(const ServerState& state, v1::DoctorResponse& response) {
  const auto stats = state.plane->pool().stats();
  const int64_t group = GroupLimit();
  const bool tight = group > 0 && stats.limit_bytes > group / 10 * 8;
  AddCheck(response, "staging pool", tight ? v1::Check::WARNING : v1::Check::OK,
           absl::StrCat(HumanBytes(stats.capacity_bytes), " of at most ", HumanBytes(stats.limit_bytes),
                        group > 0 ? absl::StrCat("; the control group allows ", HumanBytes(group)) : ""),
           "The pool may grow to more than the group's memory: set pool.bytes lower, or the limit higher.");
}

void CheckMemlock(v1::DoctorResponse& response) {
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  const bool unlimited = limit.rlim_cur == RLIM_INFINITY;
  AddCheck(response, "memlock", v1::Check::OK,
           absl::StrCat(unlimited ? "unlimited" : HumanBytes(static_cast<int64_t>(limit.rlim_cur)),
                        "; host memory is not locked, so any will do"));
}

void CheckShared(v1::DoctorResponse& response) {
  storage::UniqueFd memory(memfd_create("keepstep-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const bool works = memory.valid() && ftruncate(memory.get(), 4096) == 0;
  const std::string error = works ? "" : strerror(errno);
  struct statvfs info {};
  const bool mounted = statvfs("/dev/shm", &info) == 0;
  const std::string shm = mounted ? absl::StrCat("/dev/shm has ",
                                                 HumanBytes(static_cast<int64_t>(info.f_bavail) *
                                                            static_cast<int64_t>(info.f_frsize)),
                                                 " free, and is not used")
                                  : "there is no /dev/shm, and none is needed";
  AddCheck(response, "/dev/shm", works ? v1::Check::OK : v1::Check::FAILED,
           absl::StrCat(
               works ? "shared memory is by memfd, which works here; " : absl::StrCat("memfd: ", error, "; "),
               shm),
           "Allow memfd_create and ftruncate in the seccomp profile.");
}

bool HasPtraceCapability() {
  std::ifstream file("/proc/self/status");
  std::string line;
  while (std::getline(file, line)) {
    uint64_t bits = 0;
    if (line.rfind("CapEff:", 0) == 0 &&
        absl::SimpleHexAtoi(line.substr(line.find_first_not_of(": \t", 7)), &bits))
      return (bits >> kCapSysPtrace & 1) != 0;
  }
  return false;
}

void CheckPull(v1::DoctorResponse& response) {
  char from = 1, to = 0;
  iovec local{&to, 1}, remote{&from, 1};
  const bool works = process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
  const std::string error = works ? "" : strerror(errno);
  const std::string scope = FirstLine("/proc/sys/kernel/yama/ptrace_scope");
  const bool any = HasPtraceCapability();
  std::string found = works ? absl::StrCat("process_vm_readv works; ",
                                           any ? "may read processes of any user"
                                               : absl::StrCat("reads processes of uid ", geteuid()))
                            : error;
  if (!scope.empty()) absl::StrAppend(&found, "; yama ptrace_scope ", scope);
  const bool closed = scope == "3" || (scope == "2" && !any);
  AddCheck(response, "pull", works && !closed ? v1::Check::OK : v1::Check::WARNING, found,
           closed ? "kernel.yama.ptrace_scope forbids it: saves go through the window, which costs one more "
                    "copy. Set it "
                    "to 1, or give the daemon CAP_SYS_PTRACE where it is 2."
                  : "Saves go through the window, which costs one more copy. Allow process_vm_readv and "
                    "process_vm_writev in the seccomp profile.");
}

}  // namespace

void CheckMemory(const ServerState& state, v1::DoctorResponse& response) {
  CheckPool(state, response);
  CheckMemlock(response);
  CheckShared(response);
  CheckPull(response);
}

}  // namespace keepstep::daemon
