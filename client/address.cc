#include "client/address.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/failure.h"
#include "client/unique_fd.h"
#include "proto/handoff.h"

namespace keepstep::client {

namespace {

constexpr char kSystemFolder[] = "/run/keepstep";

// $XDG_RUNTIME_DIR if it is this user's: sudo may have left another's. "" if it is not.
std::string RuntimeDirectory() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  struct stat info;
  if (runtime == nullptr || *runtime != '/' || stat(runtime, &info) != 0) return "";
  return S_ISDIR(info.st_mode) && info.st_uid == geteuid() ? runtime : "";
}

bool IsWritable(const std::string& directory) {
  return !directory.empty() && faccessat(AT_FDCWD, directory.c_str(), W_OK | X_OK, AT_EACCESS) == 0;
}

// Where anybody can make anything, so that what is found there must be looked at.
std::string SharedFolder() { return absl::StrCat("/tmp/keepstep-", geteuid()); }

// Where a daemon may listen, the best first.
std::vector<std::string> Folders() {
  std::vector<std::string> folders;
  if (const std::string runtime = RuntimeDirectory(); !runtime.empty())
    folders.push_back(absl::StrCat(runtime, "/keepstep"));
  if (CheckOwn(SharedFolder()).ok()) folders.push_back(SharedFolder());
  folders.push_back(kSystemFolder);
  return folders;
}

bool Listens(const std::string& path) {
  const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{.sun_family = AF_UNIX};
  if (!fd.valid() || path.size() >= sizeof(address.sun_path)) return false;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  return connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 || errno == EAGAIN;
}

}  // namespace

absl::StatusOr<Address> ParseAddress(absl::string_view text) {
  absl::string_view path = text;
  if (!absl::ConsumePrefix(&path, "unix://")) absl::ConsumePrefix(&path, "unix:");
  if (!absl::StartsWith(path, "/") || absl::EndsWith(path, "/")) {
    return MakeError(
        absl::StatusCode::kInvalidArgument, "BAD_ADDRESS",
        absl::StrCat("\"", text, "\" is no address of a daemon: write unix:///run/keepstep/keepstep.sock"));
  }
  const absl::string_view folder = path.substr(0, path.rfind('/') + 1);
  Address address{.grpc_path = std::string(path),
                  .handoff_path = absl::StrCat(folder, proto::kHandoffSocketName)};
  constexpr size_t kMaxPathBytes = sizeof(sockaddr_un::sun_path) - 1;
  if (address.grpc_path.size() > kMaxPathBytes || address.handoff_path.size() > kMaxPathBytes) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ADDRESS",
                     absl::StrCat(text, " is longer than the ", kMaxPathBytes,
                                  " bytes that a Unix socket's path may have"));
  }
  return address;
}

absl::Status CheckOwn(const std::string& folder) {
  struct stat info;
  if (lstat(folder.c_str(), &info) != 0) return absl::OkStatus();
  if (S_ISDIR(info.st_mode) && info.st_uid == geteuid() && (info.st_mode & 077) == 0) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kPermissionDenied, "NOT_PRIVATE",
      absl::StrCat(folder, " is not a directory of this user alone (owner ", info.st_uid, ", mode ",
                   absl::Hex(info.st_mode >> 6 & 7), absl::Hex(info.st_mode >> 3 & 7),
                   absl::Hex(info.st_mode & 7),
                   "), so no daemon there can be trusted: have it removed, or set XDG_RUNTIME_DIR "
                   "to a directory of your own"));
}

absl::StatusOr<std::string> OwnFolder() {
  const std::string runtime = RuntimeDirectory();
  if (IsWritable(runtime)) return absl::StrCat(runtime, "/keepstep");
  if (geteuid() == 0 && (IsWritable("/run/keepstep") || IsWritable("/run")))
    return std::string(kSystemFolder);
  std::string folder = SharedFolder();
  if (absl::Status status = CheckOwn(folder); !status.ok()) return status;
  return folder;
}

std::string DefaultAddress() {
  if (const char* address = std::getenv("KEEPSTEP_ADDR"); address != nullptr && *address != '\0')
    return address;
  std::vector<std::string> there;
  for (const std::string& folder : Folders()) {
    const std::string socket = absl::StrCat(folder, "/", proto::kGrpcSocketName);
    if (access(socket.c_str(), F_OK) == 0) there.push_back(socket);
  }
  if (there.empty()) return absl::StrCat("unix://", kSystemFolder, "/", proto::kGrpcSocketName);
  for (const std::string& socket : there) {
    if (there.size() > 1 && Listens(socket)) return absl::StrCat("unix://", socket);
  }
  return absl::StrCat("unix://", there.front());
}

}  // namespace keepstep::client
