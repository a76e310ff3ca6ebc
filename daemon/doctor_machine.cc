// Sockets, I/O engine, descriptors, GPUs.

#include <dirent.h>
#include <dlfcn.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cctype>
#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "daemon/doctor.h"

namespace keepstep::daemon {
namespace {

constexpr rlim_t kFewDescriptors = 4096;

void CheckSocket(const ServerState& state, v1::DoctorResponse& response) {
  absl::string_view path = state.address;
  absl::ConsumePrefix(&path, "unix://");
  const std::string folder(path.substr(0, path.rfind('/')));
  struct stat socket {
  }, directory{};
  if (stat(std::string(path).c_str(), &socket) != 0 || stat(folder.c_str(), &directory) != 0) {
    AddCheck(response, "socket", v1::Check::FAILED, absl::StrCat(path, ": ", strerror(errno)),
             "Somebody removed it: restart the daemon.");
    return;
  }
  const bool open_to_all = (directory.st_mode & S_IWOTH) != 0 && (directory.st_mode & S_ISVTX) == 0;
  AddCheck(
      response, "socket", open_to_all ? v1::Check::WARNING : v1::Check::OK,
      absl::StrFormat("%s, mode %o in a directory of mode %o, uid %d, gid %d", path, socket.st_mode & 0777,
                      directory.st_mode & 07777, directory.st_uid, directory.st_gid),
      absl::StrCat("Anybody can replace the socket: chmod 0750 ", folder, "."));
}

void CheckEngine(const ServerState& state, v1::DoctorResponse& response) {
  const bool uring = state.io_engine == "io_uring";
  AddCheck(response, "io_uring", uring ? v1::Check::OK : v1::Check::WARNING,
           absl::StrCat(state.io_engine, ": ", state.io_engine_reason),
           "Allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile, and "
           "kernel.io_uring_disabled=0.");
}

void CheckDescriptors(v1::DoctorResponse& response) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  AddCheck(response, "open files", limit.rlim_cur >= kFewDescriptors ? v1::Check::OK : v1::Check::WARNING,
           absl::StrCat(limit.rlim_cur), "Raise LimitNOFILE (ulimit -n) to 65536 or more.");
}

int CountGpus() {
  DIR* listing = opendir("/dev");
  if (listing == nullptr) return 0;
  int count = 0;
  while (const dirent* entry = readdir(listing)) {
    absl::string_view name = entry->d_name;
    count += absl::ConsumePrefix(&name, "nvidia") && !name.empty() &&
             name.find_first_not_of("0123456789") == absl::string_view::npos;
  }
  closedir(listing);
  return count;
}

// The version that the driver's library says, e.g. 12040; 0: no library. It is asked without being
// initialized: that would make a context, and threads, in this process.
int DriverVersion() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return 0;
  int version = 0;
  using GetVersion = int (*)(int*);
  const auto get = reinterpret_cast<GetVersion>(dlsym(library, "cuDriverGetVersion"));
  if (get == nullptr || get(&version) != 0) version = 0;
  dlclose(library);
  return version;
}

// This daemon has no device worker (see the end of docs/architecture.md). Whether that matters here is found
// out.
void CheckGpu(v1::DoctorResponse& response) {
  const int gpus = CountGpus(), version = DriverVersion();
  if (gpus == 0 && version == 0) {
    AddCheck(response, "GPU", v1::Check::OK,
             "none here: no /dev/nvidia*, no libcuda.so.1; host memory alone");
    AddCheck(response, "IPC path", v1::Check::OK, "not needed: there is no GPU memory to share");
  } else {
    AddCheck(response, "GPU", v1::Check::WARNING,
             absl::StrFormat("%d here, %s; this build reads host memory alone", gpus,
                             version == 0
                                 ? "but no libcuda.so.1"
                                 : absl::StrCat("CUDA driver ", version / 1000, ".", version % 1000 / 10)),
             "Copy tensors to host memory before a save: GPU buffers are not taken by handle yet.");
    AddCheck(response, "IPC path", v1::Check::WARNING, "none: no CUDA support in this build",
             "As for the GPU: register host memory.");
  }
  AddCheck(
      response, "ordering", v1::Check::OK,
      "host memory: updates wait in before_update until their tensors are copied; no stream is involved");
}

}  // namespace

void CheckMachine(const ServerState& state, v1::DoctorResponse& response) {
  CheckSocket(state, response);
  CheckEngine(state, response);
  CheckDescriptors(response);
  CheckGpu(response);
}

}  // namespace keepstep::daemon
