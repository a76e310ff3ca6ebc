// One packet between a daemon and a process of its own, with at most one descriptor.

#ifndef KEEPSTEP_DAEMON_DEVICE_PACKET_H_
#define KEEPSTEP_DAEMON_DEVICE_PACKET_H_

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstring>

#include "absl/types/span.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {

// sendmsg, once: -1 and errno as it says. `descriptor` -1: none; it stays the caller's.
inline ssize_t SendPacket(int socket, absl::Span<const std::byte> bytes, int descriptor = -1) {
  iovec data{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{.msg_iov = &data, .msg_iovlen = 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* const part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(part), &descriptor, sizeof(descriptor));
  }
  return sendmsg(socket, &message, MSG_NOSIGNAL);
}

// recvmsg, once: -1 and errno as it says. The descriptor that came along, if one did.
inline ssize_t ReceivePacket(int socket, absl::Span<std::byte> bytes, storage::UniqueFd* descriptor) {
  iovec data{bytes.data(), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  const ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (got <= 0) return got;
  const cmsghdr* const part = CMSG_FIRSTHDR(&message);
  if (part != nullptr && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(part), sizeof(fd));
    *descriptor = storage::UniqueFd(fd);
  }
  return got;
}

// The bytes of a struct that is its own packet.
template <typename Frame>
absl::Span<const std::byte> BytesOf(const Frame& frame) {
  return {reinterpret_cast<const std::byte*>(&frame), sizeof(frame)};
}
template <typename Frame>
absl::Span<std::byte> BytesInto(Frame* frame) {
  return {reinterpret_cast<std::byte*>(frame), sizeof(*frame)};
}

}  // namespace keepstep::daemon

#endif  // KEEPSTEP_DAEMON_DEVICE_PACKET_H_
