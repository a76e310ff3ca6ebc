#include "daemon/grpc_listener.h"

#include <grpcpp/server_posix.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/connection_limit.h"

namespace keepstep::daemon {
namespace {

constexpr int kBacklog = 1024;
constexpr int kPauseMs = 100;  // after an accept that failed for want of something

absl::Status Errno(absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(what, ": ", strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcListener>> GrpcListener::Start(const GrpcListenerSpec& spec,
                                                                  grpc::Server* server) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (spec.socket_path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(spec.socket_path, " is too long for a socket."));
  }
  spec.socket_path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  storage::UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  storage::UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!listener.valid() || !wake.valid()) return Errno("gRPC socket");
  if (bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
    return Errno(spec.socket_path);
  if (chmod(spec.socket_path.c_str(), 0660) != 0) return Errno(spec.socket_path);
  if (listen(listener.get(), kBacklog) != 0) return Errno(spec.socket_path);
  std::unique_ptr<GrpcListener> started(new GrpcListener(spec, server, std::move(listener), std::move(wake)));
  started->thread_ = std::thread([raw = started.get()] { raw->Run(); });
  return started;
}

GrpcListener::GrpcListener(const GrpcListenerSpec& spec, grpc::Server* server, storage::UniqueFd listener,
                           storage::UniqueFd wake)
    : spec_(spec),
      max_connections_(spec.max_connections),
      server_(server),
      listener_(std::move(listener)),
      wake_(std::move(wake)) {}

GrpcListener::~GrpcListener() {
  eventfd_write(wake_.get(), 1);
  if (thread_.joinable()) thread_.join();
  unlink(spec_.socket_path.c_str());
}

void GrpcListener::Run() {
  pollfd watched[] = {{.fd = wake_.get(), .events = POLLIN, .revents = 0},
                      {.fd = listener_.get(), .events = POLLIN, .revents = 0}};
  for (;;) {
    if (poll(watched, 2, -1) < 0 && errno != EINTR) return;
    if (watched[0].revents != 0) return;
    if (watched[1].revents != 0) Accept();
  }
}

void GrpcListener::Accept() {
  for (;;) {
    storage::UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.valid()) {
      if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR) return;
      pollfd stop{.fd = wake_.get(), .events = POLLIN, .revents = 0};
      poll(&stop, 1, kPauseMs);
      return;
    }
    ucred peer{};
    socklen_t size = sizeof(peer);
    struct stat info {};
    if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || fstat(fd.get(), &info) != 0)
      continue;
    connections_.erase(fd.get());  // the number is free again, so what had it has ended
    if (static_cast<int>(connections_.size()) >= max_connections_ / 2) ForgetEnded();
    if (TooManyOf(peer.uid, CountOf(peer.uid), static_cast<int>(connections_.size()), max_connections_))
      continue;
    connections_[fd.get()] = {.inode = info.st_ino, .user = peer.uid};
    grpc::AddInsecureChannelFromFd(server_, fd.Release());
  }
}

void GrpcListener::ForgetEnded() {
  for (auto it = connections_.begin(); it != connections_.end();) {
    struct stat info {};
    const bool open =
        fstat(it->first, &info) == 0 && S_ISSOCK(info.st_mode) && info.st_ino == it->second.inode;
    it = open ? std::next(it) : connections_.erase(it);
  }
}

int GrpcListener::CountOf(uid_t user) const {
  return static_cast<int>(std::count_if(connections_.begin(), connections_.end(),
                                        [&](const auto& one) { return one.second.user == user; }));
}

}  // namespace keepstep::daemon
