#include "daemon/http_listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace keepstep::daemon {
namespace {

constexpr int kBacklog = 64;

struct Place {
  sockaddr_storage address{};
  socklen_t size = 0;
};

absl::Status BadListen(absl::string_view listen, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("'", listen.substr(0, 120), "' ", why));
}

absl::StatusOr<Place> LocalPlace(absl::string_view listen, absl::string_view path) {
  Place place;
  auto* address = reinterpret_cast<sockaddr_un*>(&place.address);
  if (path.empty() || path.front() != '/' || path.size() >= sizeof(address->sun_path))
    return BadListen(listen, "needs an absolute path of at most 107 bytes");
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path, path.data(), path.size());
  place.size = sizeof(sockaddr_un);
  return place;
}

absl::StatusOr<Place> NetworkPlace(absl::string_view listen) {
  constexpr char kForms[] = "is none of off, 127.0.0.1:PORT, [::1]:PORT, unix:/PATH";
  const size_t colon = listen.rfind(':');
  uint32_t port = 0;
  if (colon == absl::string_view::npos || !absl::SimpleAtoi(listen.substr(colon + 1), &port) || port > 65'535)
    return BadListen(listen, kForms);
  const std::string host(listen.substr(0, colon));
  Place place;
  auto* four = reinterpret_cast<sockaddr_in*>(&place.address);
  auto* six = reinterpret_cast<sockaddr_in6*>(&place.address);
  if (inet_pton(AF_INET, host.c_str(), &four->sin_addr) == 1) {
    if (ntohl(four->sin_addr.s_addr) >> 24 != 127)
      return BadListen(
          listen, "is not loopback: nothing here is encrypted, so others come through a proxy or a tunnel");
    four->sin_family = AF_INET;
    four->sin_port = htons(static_cast<uint16_t>(port));
    place.size = sizeof(sockaddr_in);
    return place;
  }
  if (host != "[::1]") return BadListen(listen, kForms);
  six->sin6_family = AF_INET6;
  six->sin6_port = htons(static_cast<uint16_t>(port));
  six->sin6_addr = in6addr_loopback;
  place.size = sizeof(sockaddr_in6);
  return place;
}

absl::StatusOr<Place> PlaceOf(absl::string_view listen) {
  absl::string_view path = listen;
  return absl::ConsumePrefix(&path, "unix:") ? LocalPlace(listen, path) : NetworkPlace(listen);
}

absl::Status CannotListen(absl::string_view listen) {
  return absl::FailedPreconditionError(absl::StrCat("cannot listen on ", listen, ": ", strerror(errno)));
}

std::string WithRealPort(absl::string_view listen, int fd) {
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size);
  const uint16_t port = bound.ss_family == AF_INET ? reinterpret_cast<sockaddr_in*>(&bound)->sin_port
                                                   : reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port;
  return absl::StrCat("http://", listen.substr(0, listen.rfind(':')), ":", ntohs(port));
}

}  // namespace

absl::Status CheckListen(absl::string_view listen) { return PlaceOf(listen).status(); }

absl::StatusOr<HttpListener> ListenHttp(absl::string_view listen) {
  absl::StatusOr<Place> place = PlaceOf(listen);
  if (!place.ok()) return place.status();
  HttpListener listener{.local = place->address.ss_family == AF_UNIX};
  const auto* address = reinterpret_cast<const sockaddr*>(&place->address);
  listener.socket =
      storage::UniqueFd(socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.socket.valid()) return CannotListen(listen);
  const char* path = reinterpret_cast<const sockaddr_un*>(address)->sun_path;
  if (listener.local) {
    unlink(path);
  } else {
    const int yes = 1;
    setsockopt(listener.socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  }
  if (bind(listener.socket.get(), address, place->size) != 0 ||
      ::listen(listener.socket.get(), kBacklog) != 0)
    return CannotListen(listen);
  if (listener.local && chmod(path, 0660) != 0) return CannotListen(listen);
  listener.address = listener.local ? std::string(listen) : WithRealPort(listen, listener.socket.get());
  return listener;
}

}  // namespace keepstep::daemon
